//! The model of a service whose rules have been checked.

use syn::{Attribute, Ident, Path, Type, Visibility};

/// A service.
pub(crate) struct Service {
    /// The type or trait.
    pub(crate) ident: Ident,
    /// The item that declares it.
    pub(crate) form: Form,
    /// Name of the service for peers.
    pub(crate) name: String,
    /// The codec of payloads between native agents.
    pub(crate) codec: Codec,
    /// Sorted by name, which is the order of the method table.
    pub(crate) methods: Vec<Method>,
}

/// The codec of typed payloads.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Codec {
    /// The default.
    #[default]
    Bincode,
    /// The codec of DLSlime peers.
    Pickle,
}

/// The item that `#[service]` stands on.
pub(crate) enum Form {
    /// The inherent `impl` of this type.
    Impl(Path),
    /// A trait of this visibility.
    Trait(Visibility),
}

/// A method.
pub(crate) struct Method {
    /// Name of the method as declared.
    pub(crate) ident: Ident,
    /// Name of the method for peers: without `r#`.
    pub(crate) name: String,
    /// The attributes that its client method shares: documentation and deprecation.
    pub(crate) attributes: Vec<Attribute>,
    /// The visibility of its message.
    pub(crate) visibility: Visibility,
    /// The receiver of the method.
    pub(crate) receiver: Receiver,
    /// The names that its signature mentions and that a message may hide.
    pub(crate) mentioned: Vec<Ident>,
    /// Whether it returns a `Result`, or a stream of them.
    pub(crate) is_fallible: bool,
    /// The form of its payloads.
    pub(crate) kind: Kind,
}

/// The receiver of a method.
pub(crate) enum Receiver {
    /// `&self`.
    Ref,
    /// `&mut self`.
    Mut,
    /// A reference to what the service shares, of this type: the method is parallel.
    Shared(Box<Type>),
}

impl Method {
    /// The type that it sees of the service, if it runs beside the serial methods.
    pub(crate) fn shared(&self) -> Option<&Type> {
        match &self.receiver {
            Receiver::Shared(shared) => Some(shared),
            Receiver::Ref | Receiver::Mut => None,
        }
    }
}

/// The form of the payloads between caller and handler.
pub(crate) enum Kind {
    /// Messages.
    Typed(Box<Typed>),
    /// Bytes.
    Raw {
        /// Whether the handler is `async`.
        is_async: bool,
        /// Where the reply is made.
        reply: RawReply,
    },
}

/// Where the reply of a raw method is made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum RawReply {
    /// In any memory: it is returned.
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
    /// The form of the answer.
    pub(crate) answers: Answers,
}

/// The form of a typed method's answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answers {
    /// One result.
    One,
    /// None: callers do not wait.
    None,
    /// A stream of items.
    Stream,
}

/// An argument.
pub(crate) struct Argument {
    /// Its name.
    pub(crate) ident: Ident,
    /// Its type.
    pub(crate) ty: Type,
}
