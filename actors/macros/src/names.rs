//! Names of messages, and those that cannot be had.

use std::collections::{HashMap, HashSet};

use syn::Ident;

use crate::errors::Errors;
use crate::model::{Kind, Method};

/// Methods of `Proxy` and `Caller`, which would be called instead of the service's.
const SHADOWED: [&str; 4] = ["send", "call", "peer", "clone"];

/// Types and traits in everybody's scope, which a message of that name would hide.
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
    "Option",
    "Ord",
    "PartialEq",
    "PartialOrd",
    "Result",
    "Self",
    "Send",
    "Sized",
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

/// What to do about a message that cannot have its name.
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
    if SHADOWED.contains(&name) {
        let text = format!(
            "a proxy has a method `{name}` of its own, which would be called instead of this one; rename it"
        );
        errors.at(method, text);
    }
}

/// Refuses methods of one name, and messages of one name or that of the service or its client.
pub(crate) fn check_unique(service: &Ident, methods: &[Method], errors: &mut Errors) {
    let mut names = HashSet::new();
    let mut owners = HashMap::new();
    owners.insert(service.to_string(), "the service".to_owned());
    owners.insert(format!("{service}Client"), "its client".to_owned());
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
    use super::camel_case;

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
