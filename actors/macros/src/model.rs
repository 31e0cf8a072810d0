//! What a service is, once its rules have been checked.

use syn::{Attribute, Ident, Path, Type, Visibility};

/// A service.
pub(crate) struct Service {
    /// The type or trait.
    pub(crate) ident: Ident,
    /// Where it was declared.
    pub(crate) form: Form,
    /// The name peers know it by.
    pub(crate) name: String,
    /// How payloads travel between native agents.
    pub(crate) codec: Codec,
    /// Sorted by name, which is the order of the method table.
    pub(crate) methods: Vec<Method>,
}

/// The codec of typed payloads.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Codec {
    /// Unless another is asked for.
    #[default]
    Bincode,
    /// As DLSlime peers speak.
    Pickle,
}

/// What `#[service]` stands on.
pub(crate) enum Form {
    /// The inherent `impl` of this type.
    Impl(Path),
    /// A trait of this visibility.
    Trait(Visibility),
}

/// A method.
pub(crate) struct Method {
    /// As declared.
    pub(crate) ident: Ident,
    /// As peers know it: without `r#`.
    pub(crate) name: String,
    /// The attributes that its client method shares: documentation and deprecation.
    pub(crate) attributes: Vec<Attribute>,
    /// The visibility of its message.
    pub(crate) visibility: Visibility,
    /// What it runs on.
    pub(crate) receiver: Receiver,
    /// The names that its signature mentions and that a message may hide.
    pub(crate) mentioned: Vec<Ident>,
    /// Whether it returns a `Result`, or a stream of them.
    pub(crate) is_fallible: bool,
    /// What passes between caller and handler.
    pub(crate) kind: Kind,
}

/// What a method runs on.
pub(crate) enum Receiver {
    /// `&self`.
    Ref,
    /// `&mut self`.
    Mut,
    /// What the service shares, of this type: the method is parallel.
    Shared(Box<Type>),
}

impl Method {
    /// What it sees of the service, if it runs beside the serial methods.
    pub(crate) fn shared(&self) -> Option<&Type> {
        match &self.receiver {
            Receiver::Shared(shared) => Some(shared),
            Receiver::Ref | Receiver::Mut => None,
        }
    }
}

/// What passes between caller and handler.
pub(crate) enum Kind {
    /// Messages.
    Typed(Box<Typed>),
    /// Bytes.
    Raw {
        /// Whether the handler is `async`.
        is_async: bool,
        /// Where its reply comes into being.
        reply: RawReply,
    },
}

/// Where the reply of a raw method comes into being.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum RawReply {
    /// Wherever; it is returned.
    Returned,
    /// In send memory.
    Written,
    /// In place of the request.
    Rewritten,
}

/// A method with a message.
pub(crate) struct Typed {
    /// The name of the message.
    pub(crate) message: Ident,
    /// Its fields.
    pub(crate) arguments: Vec<Argument>,
    /// The reply, or an item.
    pub(crate) output: Type,
    /// Whether the handler is `async`.
    pub(crate) is_async: bool,
    /// What comes back.
    pub(crate) answers: Answers,
}

/// What comes back from a method with a message.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answers {
    /// Its result.
    One,
    /// Nothing: callers do not wait.
    None,
    /// The items of a stream.
    Stream,
}

/// An argument.
pub(crate) struct Argument {
    /// Its name.
    pub(crate) ident: Ident,
    /// Its type.
    pub(crate) ty: Type,
}
