//! The rules for one method, and its model.

use syn::ext::IdentExt;
use syn::{
    Attribute, FnArg, Ident, Pat, PatType, Path, ReturnType, Signature, Type, Visibility,
    parse_quote,
};

use crate::errors::Errors;
use crate::model::{Answers, Argument, Form, Kind, Method, RawReply, Receiver, Typed};
use crate::options::{MethodOptions, ServiceOptions};
use crate::{conditional, names, types};

/// A function with `#[method]`, as found.
pub(crate) struct Candidate<'a> {
    /// The options of its `#[method]`.
    pub(crate) options: MethodOptions,
    /// Its other attributes.
    pub(crate) attributes: &'a [Attribute],
    /// Visibility of its message.
    pub(crate) visibility: Visibility,
    /// Its signature.
    pub(crate) signature: &'a Signature,
}

/// Turns candidates into methods.
pub(crate) struct Reader<'a> {
    form: &'a Form,
    /// Prefix of the names of messages.
    prefix: &'a str,
    errors: &'a mut Errors,
}

impl<'a> Reader<'a> {
    /// Makes a reader for methods of a service of this form; errors go to `errors`.
    pub(crate) fn new(form: &'a Form, options: &'a ServiceOptions, errors: &'a mut Errors) -> Self {
        let prefix = options.prefix.as_deref().unwrap_or_default();
        Reader {
            form,
            prefix,
            errors,
        }
    }

    /// Reads the method of `candidate`. If it breaks a rule, returns a substitute and adds errors.
    pub(crate) fn method(&mut self, candidate: Candidate<'_>) -> Method {
        let signature = candidate.signature;
        let name = signature.ident.unraw().to_string();
        names::check_shadowed(&signature.ident, &name, self.errors);
        self.check_attributes(candidate.attributes);
        self.check_argument_attributes(signature);
        self.check_qualifiers(signature);
        let receiver = match &candidate.options.parallel {
            Some(parallel) => self.shared(parallel, signature),
            None => self.receiver(signature),
        };
        let (is_fallible, kind) = match (&candidate.options.raw, &candidate.options.inplace) {
            (Some(_), Some(inplace)) => self.inplace(inplace, signature),
            (Some(raw), None) => self.raw(raw, signature),
            (None, _) => self.typed(&name, signature, &candidate.options),
        };
        let attributes = shared_attributes(candidate.attributes);
        let ident = signature.ident.clone();
        Method {
            ident,
            name,
            attributes,
            visibility: candidate.visibility,
            receiver,
            mentioned: mentioned(signature),
            is_fallible,
            kind,
        }
    }

    fn check_attributes(&mut self, attributes: &[Attribute]) {
        for attribute in attributes {
            if conditional::comes_to(&attribute.meta, is_cfg) {
                self.errors.at(
                    attribute,
                    "a method cannot be left out of some builds, as its place in the method table is part of its message; \
                     put the `#[cfg]` on the service, or inside the method",
                );
            }
        }
    }

    fn check_argument_attributes(&mut self, signature: &Signature) {
        for input in &signature.inputs {
            let attributes = match input {
                FnArg::Receiver(receiver) => &receiver.attrs,
                FnArg::Typed(argument) => &argument.attrs,
            };
            for attribute in attributes {
                if conditional::comes_to(&attribute.meta, is_cfg) {
                    self.errors.at(
                        attribute,
                        "an argument cannot be left out of some builds, as both sides must know the same message; put the \
                         `#[cfg]` on the service, or make the argument an `Option`",
                    );
                }
            }
        }
    }

    fn check_qualifiers(&mut self, signature: &Signature) {
        if let Some(token) = &signature.constness {
            self.errors.at(
                token,
                "a method runs when a request arrives, so it cannot be `const`",
            );
        }
        if let Some(token) = &signature.unsafety {
            self.errors.at(token, "a method takes requests from peers, who cannot uphold the contract of an `unsafe fn`");
        }
        if let Some(token) = &signature.abi {
            self.errors.at(
                token,
                "a method is an ordinary Rust function, without `extern`",
            );
        }
        if !signature.generics.params.is_empty() {
            self.errors.at(
                &signature.generics.params,
                "a method has one message of one shape, so it cannot be generic; name the types",
            );
        }
    }

    fn receiver(&mut self, signature: &Signature) -> Receiver {
        match signature.inputs.first() {
            // `&self` is short for `self: &Self`.
            Some(FnArg::Receiver(receiver)) => match &*receiver.ty {
                Type::Reference(reference) if types::is_self(&reference.elem, self.form) => {
                    let lifetime = reference.lifetime.as_ref();
                    if let Some(long) = lifetime.filter(|lifetime| lifetime.ident == "static") {
                        self.errors.at(long, "a method has the service for as long as its call takes; leave the lifetime out");
                    }
                    return match reference.mutability {
                        Some(_) => Receiver::Mut,
                        None => Receiver::Ref,
                    };
                }
                owner if types::is_self(owner, self.form) || types::is_box(owner) => self.errors.at(
                    receiver,
                    "the service stays when a call is over, so take `&mut self` or `&self`",
                ),
                _ => self.errors.at(
                    receiver,
                    "a method is lent the service itself, in no wrapping, so take `&mut self` or `&self`",
                ),
            },
            _ => {
                let text = "a method runs on an instance of the service; its first parameter is `&mut self` or `&self`";
                self.errors.at(&signature.ident, text);
            }
        }
        Receiver::Ref
    }

    /// The type that a parallel method sees of the service.
    fn shared(&mut self, parallel: &Ident, signature: &Signature) -> Receiver {
        let shared = match signature.inputs.first() {
            Some(FnArg::Typed(PatType { ty, .. })) => match &**ty {
                Type::Reference(shared) if shared.mutability.is_none() => Some(&*shared.elem),
                _ => None,
            },
            _ => None,
        };
        let Some(shared) = shared else {
            self.errors.at(
                parallel,
                "a parallel method runs while another has `&mut self`, so it sees only what the service shares: it looks \
                 like `fn health(shared: &Vitals) -> bool`, and the service has `impl Share` with `type Shared = Vitals`",
            );
            return Receiver::Shared(parse_quote!(()));
        };
        Receiver::Shared(Box::new(types::without_self(shared, self.form)))
    }

    fn typed(
        &mut self,
        name: &str,
        signature: &Signature,
        options: &MethodOptions,
    ) -> (bool, Kind) {
        let message = names::message(&signature.ident, name, self.prefix, self.errors);
        if let Some(argument) = arguments(signature).nth(MAX_ARGUMENTS) {
            let text = format!(
                "more than {MAX_ARGUMENTS} arguments, which is where serde's tuples end; pass a struct"
            );
            self.errors.at(argument, text);
        }
        let arguments = arguments(signature)
            .filter_map(|argument| self.argument(argument))
            .collect();
        let (is_fallible, output) = match &options.stream {
            Some(stream) => self.items(stream, signature),
            None => self.output(&signature.output),
        };
        let answers = match (&options.oneway, &options.stream) {
            (_, Some(_)) => Answers::Stream,
            (Some(_), None) => Answers::None,
            (None, None) => Answers::One,
        };
        if let Some(oneway) = &options.oneway
            && output != parse_quote!(())
        {
            let text =
                "nobody waits for a `oneway` method, so it returns nothing, or `Result<(), E>`";
            self.errors.at(oneway, text);
        }
        let is_async = signature.asyncness.is_some();
        (
            is_fallible,
            Kind::Typed(Box::new(Typed {
                message,
                arguments,
                output,
                is_async,
                answers,
            })),
        )
    }

    fn argument(&mut self, argument: &PatType) -> Option<Argument> {
        types::check_argument(&argument.ty, self.form, self.errors);
        let Some(ident) = binding(&argument.pat) else {
            let text = "an argument is a field of the message, so it needs a name; take it apart inside the method";
            self.errors.at(&argument.pat, text);
            return None;
        };
        Some(Argument {
            ident: ident.clone(),
            ty: types::without_self(&argument.ty, self.form),
        })
    }

    /// Returns whether the items of the method's stream are `Result`s, and the type of an item.
    fn items(&mut self, stream: &Ident, signature: &Signature) -> (bool, Type) {
        let item = match &signature.output {
            ReturnType::Type(_, returned) => types::item_of_stream(returned),
            ReturnType::Default => None,
        };
        let (Some(item), None) = (item, &signature.asyncness) else {
            self.errors.at(
                stream,
                "a method that gives back a stream looks like `fn tokens(&mut self, prompt: String) -> impl Stream<Item = String>`; \
                 it is not `async`, as its stream may await, and its items may be `Result`s",
            );
            return (false, parse_quote!(()));
        };
        self.reply(item)
    }

    /// Returns whether the method returns a `Result`, and the type of the reply.
    fn output(&mut self, output: &ReturnType) -> (bool, Type) {
        match output {
            ReturnType::Type(_, returned) => self.reply(returned),
            ReturnType::Default => (false, parse_quote!(())),
        }
    }

    /// Returns whether the returned type is a `Result`, and the part of it that is sent.
    fn reply(&mut self, returned: &Type) -> (bool, Type) {
        types::check_output(returned, self.form, self.errors);
        let (is_fallible, reply) = match types::as_result(returned) {
            None => (false, returned),
            Some(Some(reply)) => (true, reply),
            Some(None) => {
                self.errors.at(
                    returned,
                    "which type is the reply? write it out, as in `Result<T, E>`",
                );
                (true, returned)
            }
        };
        (is_fallible, types::without_self(reply, self.form))
    }

    fn raw(&mut self, raw: &Ident, signature: &Signature) -> (bool, Kind) {
        let arguments: Vec<_> = arguments(signature).collect();
        match arguments[..] {
            [argument] if is_borrowed_bytes(&argument.ty) => {}
            [] => self
                .errors
                .at(raw, format!("this method takes no bytes; {RAW_SHAPE}")),
            [argument] => self
                .errors
                .at(&argument.ty, format!("not `&[u8]`; {RAW_SHAPE}")),
            [_, second, ..] => self
                .errors
                .at(second, format!("more than one argument; {RAW_SHAPE}")),
        }
        let is_async = signature.asyncness.is_some();
        let kind = Kind::Raw {
            is_async,
            reply: RawReply::Returned,
        };
        (self.raw_output(signature), kind)
    }

    fn inplace(&mut self, inplace: &Ident, signature: &Signature) -> (bool, Kind) {
        let arguments: Vec<_> = arguments(signature).collect();
        let reply = match arguments[..] {
            [request, reply] if is_borrowed_bytes(&request.ty) && is_mutable_bytes(&reply.ty) => {
                Some(RawReply::Written)
            }
            [bytes] if is_mutable_bytes(&bytes.ty) => Some(RawReply::Rewritten),
            _ => None,
        };
        let returned = match &signature.output {
            ReturnType::Type(_, returned) => Some(&**returned),
            ReturnType::Default => None,
        };
        let result = returned.and_then(types::as_result);
        let count = match result {
            Some(count) => count,
            None => returned,
        };
        let counts = matches!(count, Some(Type::Path(count)) if count.path.is_ident("usize"));
        if reply.is_none() || !counts {
            self.errors.at(
                inplace,
                "a method that writes its reply in place looks like \
                 `fn bytes(&mut self, request: &[u8], reply: &mut [u8]) -> usize`, or `fn bytes(&mut self, bytes: &mut [u8]) -> usize` \
                 if that takes the place of the request, and may return a `Result` of that",
            );
        }
        let kind = Kind::Raw {
            is_async: signature.asyncness.is_some(),
            reply: reply.unwrap_or(RawReply::Written),
        };
        (result.is_some(), kind)
    }

    fn raw_output(&mut self, signature: &Signature) -> bool {
        let ReturnType::Type(_, returned) = &signature.output else {
            self.errors.at(
                &signature.ident,
                format!("this method returns no bytes; {RAW_SHAPE}"),
            );
            return false;
        };
        let is_static = matches!(&**returned, Type::Reference(reference)
            if reference.lifetime.as_ref().is_some_and(|lifetime| lifetime.ident == "static"));
        if !is_static {
            types::check_output(returned, self.form, self.errors);
        }
        types::as_result(returned).is_some()
    }
}

fn is_cfg(path: &Path) -> bool {
    path.is_ident("cfg")
}

/// Arguments travel as a tuple.
const MAX_ARGUMENTS: usize = 16;

const RAW_SHAPE: &str = "a raw method looks like `fn bytes(&mut self, request: &[u8]) -> Vec<u8>`";

/// The names that the types in `signature` mention.
fn mentioned(signature: &Signature) -> Vec<Ident> {
    let taken = signature.inputs.iter().filter_map(|input| match input {
        FnArg::Typed(argument) => Some(&*argument.ty),
        FnArg::Receiver(_) => None,
    });
    let returned = match &signature.output {
        ReturnType::Type(_, returned) => Some(&**returned),
        ReturnType::Default => None,
    };
    taken.chain(returned).flat_map(types::mentioned).collect()
}

/// The arguments that travel. The first one is the receiver.
fn arguments(signature: &Signature) -> impl Iterator<Item = &PatType> {
    let arguments = signature.inputs.iter().skip(1);
    arguments.filter_map(|input| match input {
        FnArg::Typed(argument) => Some(argument),
        FnArg::Receiver(_) => None,
    })
}

/// The name that `pattern` binds, if it is `name` or `mut name`.
fn binding(pattern: &Pat) -> Option<&Ident> {
    match pattern {
        Pat::Ident(pattern) if pattern.by_ref.is_none() && pattern.subpat.is_none() => {
            Some(&pattern.ident)
        }
        _ => None,
    }
}

fn is_borrowed_bytes(ty: &Type) -> bool {
    matches!(ty, Type::Reference(reference) if reference.mutability.is_none() && types::is_bytes(&reference.elem))
}

fn is_mutable_bytes(ty: &Type) -> bool {
    matches!(ty, Type::Reference(reference) if reference.mutability.is_some() && types::is_bytes(&reference.elem))
}

/// The attributes that the client's method shares with the service's.
fn shared_attributes(attributes: &[Attribute]) -> Vec<Attribute> {
    let is_shared = |path: &Path| path.is_ident("doc") || path.is_ident("deprecated");
    let are_shared =
        |attribute: &&Attribute| conditional::comes_only_to(&attribute.meta, is_shared);
    attributes.iter().filter(are_shared).cloned().collect()
}
