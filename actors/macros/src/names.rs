//! The names of messages, and names that are not available.

use std::collections::{HashMap, HashSet};

use syn::Ident;
use syn::ext::IdentExt;

use crate::errors::Errors;
use crate::model::{Kind, Method, Service};

/// Inherent methods of `Proxy`, which would be called instead of the service's.
const OF_PROXY: &[&str] = &[
    "blocking",
    "channel",
    "is_local",
    "name",
    "parallel_channel",
    "peer",
    "ready",
    "recipient",
    "send",
    "stream",
    "tell",
    "try_send",
    "watch",
    "with_reconnect_wait",
    "with_timeout",
];

/// Methods that `Proxy` has through a trait. Some of the traits are in everybody's scope, and any
/// of them may be in that of a caller.
const OF_TRAITS: &[(&str, &[&str])] = &[
    ("Clone", &["clone", "clone_from"]),
    ("Debug", &["fmt"]),
    ("Deref", &["deref"]),
    // The traits that every type implements.
    ("Any", &["type_id"]),
    ("Borrow", &["borrow"]),
    ("BorrowMut", &["borrow_mut"]),
    ("Into", &["into"]),
    ("ToOwned", &["clone_into", "to_owned"]),
    ("TryInto", &["try_into"]),
];

/// Types, traits and variants in everybody's scope, which a message of that name would hide.
const PRELUDE: &[&str] = &[
    "AsMut",
    "AsRef",
    "AsyncFn",
    "AsyncFnMut",
    "AsyncFnOnce",
    "Box",
    "Clone",
    "Copy",
    "Default",
    "DoubleEndedIterator",
    "Drop",
    "Eq",
    "Err",
    "ExactSizeIterator",
    "Extend",
    "Fn",
    "FnMut",
    "FnOnce",
    "From",
    "FromIterator",
    "Future",
    "Into",
    "IntoFuture",
    "IntoIterator",
    "Iterator",
    "None",
    "Ok",
    "Option",
    "Ord",
    "PartialEq",
    "PartialOrd",
    "Result",
    "Self",
    "Send",
    "Sized",
    "Some",
    "String",
    "Sync",
    "ToOwned",
    "ToString",
    "TryFrom",
    "TryInto",
    "Unpin",
    "Vec",
];

/// `add_all` as `AddAll`.
pub(crate) fn camel_case(name: &str) -> String {
    name.split('_').flat_map(capitalised).collect()
}

fn capitalised(word: &str) -> impl Iterator<Item = char> {
    let mut letters = word.chars();
    let first = letters.next();
    first
        .into_iter()
        .flat_map(char::to_uppercase)
        .chain(letters)
}

/// Advice for a message that cannot have its name.
const WAYS_OUT: &str =
    "rename the method, or give the messages a prefix: `#[service(prefix = \"Calc\")]`";

/// The name of the message of `method`.
pub(crate) fn message(method: &Ident, name: &str, prefix: &str, errors: &mut Errors) -> Ident {
    let message = format!("{prefix}{}", camel_case(name));
    if PRELUDE.contains(&message.as_str()) {
        let text = format!(
            "the message of `{name}` would be called `{message}` and hide the `{message}` that every module has; \
             {WAYS_OUT}"
        );
        errors.at(method, text);
    } else if syn::parse_str::<Ident>(&message).is_err() {
        let text = format!(
            "the message of `{name}` would be called `{message}`, which is no name for a type; \
             {WAYS_OUT}"
        );
        errors.at(method, text);
        return Ident::new("Message", method.span());
    }
    Ident::new(&message, method.span())
}

/// Refuses methods that could not be called on a proxy.
pub(crate) fn check_shadowed(method: &Ident, name: &str, errors: &mut Errors) {
    let of_trait = OF_TRAITS.iter().find(|(_, names)| names.contains(&name));
    let whose = match of_trait {
        Some((of, _)) => format!("through `{of}`"),
        None if OF_PROXY.contains(&name) => "of its own".to_owned(),
        None => return,
    };
    let text = format!(
        "a proxy has a method `{name}` {whose}, which would be called instead of this one; rename it"
    );
    errors.at(method, text);
}

/// Refuses messages that would hide a type which the methods of the service take or return: the
/// message would be meant in its place.
pub(crate) fn check_hidden(service: &Ident, methods: &[Method], errors: &mut Errors) {
    let mentioned: HashSet<String> = methods
        .iter()
        .flat_map(|method| &method.mentioned)
        .map(Ident::to_string)
        .collect();
    for method in methods {
        let Kind::Typed(typed) = &method.kind else {
            continue;
        };
        let message = typed.message.to_string();
        // That is refused already.
        if PRELUDE.contains(&message.as_str()) {
            continue;
        }
        if *service != message && mentioned.contains(&message) {
            let text = format!(
                "the message of `{}` would be called `{message}` and hide the `{message}` that methods take or return; \
                 {WAYS_OUT}",
                method.name
            );
            errors.at(&method.ident, text);
        }
    }
    let client = format!("{}Client", service.unraw());
    let mut all = methods.iter().flat_map(|method| &method.mentioned);
    if let Some(taken) = all.find(|mentioned| **mentioned == client) {
        let text = format!(
            "`#[service]` makes a `{client}`, which would hide this one; import it under another name, with `as`"
        );
        errors.at(taken, text);
    }
}

/// Refuses a message, or a client, with the name of `whose`.
pub(crate) fn check_taken(
    service: &Service,
    taken: impl std::fmt::Display,
    whose: &str,
    errors: &mut Errors,
) {
    let taken = taken.to_string();
    for method in &service.methods {
        if let Kind::Typed(typed) = &method.kind
            && typed.message == taken
        {
            let text = format!(
                "the message of `{}` would be called `{taken}`, as {whose}; {WAYS_OUT}",
                method.name
            );
            errors.at(&method.ident, text);
        }
    }
    if taken == format!("{}Client", service.ident.unraw()) {
        let text =
            format!("the client of this service is called `{taken}`, as {whose}; rename that");
        errors.at(&service.ident, text);
    }
}

/// Refuses arguments that a message without fields would make a pattern which matches it, and
/// arguments of one name.
fn check_arguments(methods: &[Method], errors: &mut Errors) {
    let typed = methods.iter().filter_map(|method| match &method.kind {
        Kind::Typed(typed) => Some((method, typed)),
        Kind::Raw { .. } => None,
    });
    let is_unit = |name: &str| {
        let mut units = typed.clone().filter(|(_, of)| of.arguments.is_empty());
        units.any(|(_, of)| of.message == name)
    };
    for (method, of) in typed.clone() {
        let mut names = HashSet::new();
        for argument in &of.arguments {
            let name = argument.ident.unraw().to_string();
            if is_unit(&name) {
                let text =
                    format!("`{name}` is also the name of a message of this service; rename one");
                errors.at(&argument.ident, text);
            }
            if !names.insert(name) {
                let text = format!(
                    "two arguments of `{}` have this name, and they are the fields of one message",
                    method.name
                );
                errors.at(&argument.ident, text);
            }
        }
    }
}

/// Refuses methods of one name, and messages of one name or that of the service or its client.
pub(crate) fn check_unique(service: &Ident, methods: &[Method], errors: &mut Errors) {
    let mut names = HashSet::new();
    let mut owners = HashMap::new();
    let service = service.unraw();
    owners.insert(service.to_string(), "the service".to_owned());
    owners.insert(format!("{service}Client"), "its client".to_owned());
    check_arguments(methods, errors);
    for method in methods {
        if !names.insert(&method.name) {
            let text = format!(
                "there are two methods `{}`, and peers call methods by name",
                method.name
            );
            errors.at(&method.ident, text);
            continue;
        }
        let Kind::Typed(typed) = &method.kind else {
            let with = format!("{}_with", method.name);
            check_shadowed(&method.ident, &with, errors);
            if let Some(taken) = methods.iter().find(|method| method.name == with) {
                let text = format!(
                    "the raw method `{}` is also called as `{with}`, with a closure that fills the request; choose \
                     another name",
                    method.name
                );
                errors.at(&taken.ident, text);
            }
            continue;
        };
        let owner = format!("the message of `{}`", method.name);
        if let Some(taken) = owners.insert(typed.message.to_string(), owner) {
            let text = format!(
                "the message of `{}` would be called `{}`, as {taken} is; {WAYS_OUT}",
                method.name, typed.message
            );
            errors.at(&method.ident, text);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use syn::{ImplItem, ItemImpl, Type, Visibility};

    use super::{OF_PROXY, OF_TRAITS, camel_case};

    /// All `impl`s of `Proxy` in these folders.
    fn impls_of_proxy(folder: &Path) -> Vec<ItemImpl> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.extend(impls_of_proxy(&path));
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let file = syn::parse_file(&fs::read_to_string(&path).unwrap()).unwrap();
                found.extend(file.items.into_iter().filter_map(|item| match item {
                    syn::Item::Impl(item) if is_proxy(&item.self_ty) => Some(item),
                    _ => None,
                }));
            }
        }
        found
    }

    fn is_proxy(ty: &Type) -> bool {
        matches!(ty, Type::Path(ty) if ty.path.segments.last().is_some_and(|last| last.ident == "Proxy"))
    }

    #[test]
    fn the_methods_that_a_proxy_has_are_those_that_a_service_cannot_have() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src");
        let (mut methods, mut traits) = (BTreeSet::new(), BTreeSet::new());
        for item in impls_of_proxy(&source) {
            if let Some((_, of, _)) = &item.trait_ {
                traits.insert(of.segments.last().unwrap().ident.to_string());
                continue;
            }
            methods.extend(item.items.iter().filter_map(|item| match item {
                ImplItem::Fn(method) if matches!(method.vis, Visibility::Public(_)) => {
                    method.sig.receiver().map(|_| method.sig.ident.to_string())
                }
                _ => None,
            }));
        }
        let known = OF_PROXY.iter().map(|name| (*name).to_owned());
        assert_eq!(methods, known.collect(), "OF_PROXY is to be the same");
        assert!(!traits.is_empty());
        for of in traits {
            let is_known = OF_TRAITS.iter().any(|(known, _)| **known == of);
            assert!(is_known, "the methods of `{of}` belong into OF_TRAITS");
        }
    }

    #[test]
    fn messages_are_named_after_methods_in_camel_case() {
        for (method, message) in [
            ("add", "Add"),
            ("add_all", "AddAll"),
            ("_hidden", "Hidden"),
            ("addOne", "AddOne"),
            ("get2_b", "Get2B"),
            ("été", "Été"),
            ("__", ""),
        ] {
            assert_eq!(camel_case(method), message);
        }
    }
}
