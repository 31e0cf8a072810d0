//! The rules for the types of arguments and replies: owned, concrete, and known to callers.

use quote::ToTokens;
use syn::visit_mut::{self, VisitMut};
use syn::{
    GenericArgument, Ident, Lifetime, Path, PathArguments, PathSegment, Type, TypeImplTrait,
    TypeParamBound, TypeReference,
};

use crate::errors::Errors;
use crate::model::Form;

/// Refuses arguments that cannot be a field of a message.
pub(crate) fn check_argument(ty: &Type, form: &Form, errors: &mut Errors) {
    match find(ty, form) {
        Some(Culprit::Reference(reference)) => {
            let text = format!(
                "an argument is sent to another process, so it cannot be a reference; use `{}`{}",
                owned(&reference.elem),
                if is_bytes(&reference.elem) {
                    ", or make this a `#[method(raw)]`, which borrows bytes"
                } else {
                    ""
                }
            );
            errors.at(reference, text);
        }
        Some(Culprit::Lifetime(lifetime)) => {
            errors.at(
                lifetime,
                "an argument is sent to another process, so it cannot borrow; use an owned type",
            );
        }
        Some(Culprit::ImplTrait(ty)) => {
            errors.at(ty, "an argument is a field of a message, so its type must be named; `impl Trait` has no name");
        }
        Some(Culprit::SelfType(ident)) => errors.at(ident, SELF_IN_TRAIT),
        None => {}
    }
}

/// Refuses replies that cannot be sent.
pub(crate) fn check_output(ty: &Type, form: &Form, errors: &mut Errors) {
    match find(ty, form) {
        Some(Culprit::Reference(reference)) => {
            let text = format!(
                "a reply is sent to another process, so it cannot be a reference; return `{}`",
                owned(&reference.elem)
            );
            errors.at(reference, text);
        }
        Some(Culprit::Lifetime(lifetime)) => {
            errors.at(
                lifetime,
                "a reply is sent to another process, so it cannot borrow; return an owned type",
            );
        }
        Some(Culprit::ImplTrait(ty)) if is_future(&ty) => {
            errors.at(
                ty,
                "write `async fn` and the type of the reply, instead of `impl Future`",
            );
        }
        Some(Culprit::ImplTrait(ty)) if item_of_stream(&Type::ImplTrait(ty.clone())).is_some() => {
            errors.at(
                ty,
                "to give back a stream of items write `#[method(stream)]`, without `raw`",
            );
        }
        Some(Culprit::ImplTrait(ty)) => {
            errors.at(
                ty,
                "callers decode the reply, so its type must be named; `impl Trait` has no name",
            );
        }
        Some(Culprit::SelfType(ident)) => errors.at(ident, SELF_IN_TRAIT),
        None => {}
    }
}

const SELF_IN_TRAIT: &str =
    "`Self` is the implementation, which callers of a trait do not know; name a type they know";

/// Returns whether `ty` is the service itself.
pub(crate) fn is_self(ty: &Type, form: &Form) -> bool {
    match (ty, form) {
        (Type::Path(ty), _) if ty.qself.is_none() && ty.path.is_ident("Self") => true,
        (Type::Path(ty), Form::Impl(path)) => ty.qself.is_none() && ty.path == *path,
        _ => false,
    }
}

/// Returns whether `ty` is a `Box`.
pub(crate) fn is_box(ty: &Type) -> bool {
    matches!(ty, Type::Path(ty) if ty.path.segments.last().is_some_and(|last| last.ident == "Box"))
}

/// The names in `ty` that are looked up in the module: of each path the first segment.
pub(crate) fn mentioned(ty: &Type) -> Vec<Ident> {
    struct Mentioned(Vec<Ident>);

    impl VisitMut for Mentioned {
        fn visit_path_mut(&mut self, path: &mut Path) {
            if let (Some(first), None) = (path.segments.first(), path.leading_colon) {
                self.0.push(first.ident.clone());
            }
            visit_mut::visit_path_mut(self, path);
        }
    }

    let mut mentioned = Mentioned(Vec::new());
    mentioned.visit_type_mut(&mut ty.clone());
    mentioned.0
}

/// The first parameter of `ty` if it is called `Result`.
pub(crate) fn as_result(ty: &Type) -> Option<Option<&Type>> {
    let Type::Path(path) = ty else { return None };
    let last = path.path.segments.last()?;
    if last.ident != "Result" {
        return None;
    }
    let PathArguments::AngleBracketed(arguments) = &last.arguments else {
        return Some(None);
    };
    let mut types = arguments.args.iter();
    Some(types.find_map(|argument| match argument {
        GenericArgument::Type(ty) => Some(ty),
        _ => None,
    }))
}

/// The item of `impl Stream<Item = T>`.
pub(crate) fn item_of_stream(ty: &Type) -> Option<&Type> {
    let Type::ImplTrait(ty) = ty else { return None };
    ty.bounds.iter().find_map(|bound| match bound {
        TypeParamBound::Trait(bound) => item_of(bound.path.segments.last()?),
        _ => None,
    })
}

/// The item of `Stream<Item = T>`.
fn item_of(segment: &PathSegment) -> Option<&Type> {
    let PathArguments::AngleBracketed(arguments) = &segment.arguments else {
        return None;
    };
    let mut arguments = arguments.args.iter();
    arguments.find_map(|argument| match argument {
        GenericArgument::AssocType(item) if segment.ident == "Stream" && item.ident == "Item" => {
            Some(&item.ty)
        }
        _ => None,
    })
}

/// Returns whether `ty` is `[u8]`.
pub(crate) fn is_bytes(ty: &Type) -> bool {
    let Type::Slice(slice) = ty else { return false };
    matches!(&*slice.elem, Type::Path(path) if path.path.is_ident("u8"))
}

/// `ty` with `Self` replaced, which has another meaning in a message.
pub(crate) fn without_self(ty: &Type, form: &Form) -> Type {
    let mut ty = ty.clone();
    if let Form::Impl(path) = form {
        ReplaceSelf(path).visit_type_mut(&mut ty);
    }
    ty
}

struct ReplaceSelf<'a>(&'a Path);

impl VisitMut for ReplaceSelf<'_> {
    fn visit_path_mut(&mut self, path: &mut Path) {
        visit_mut::visit_path_mut(self, path);
        if path
            .segments
            .first()
            .is_some_and(|first| first.ident == "Self")
        {
            let rest = path.segments.iter().skip(1).cloned();
            let segments = self.0.segments.iter().cloned().chain(rest).collect();
            *path = Path {
                leading_colon: self.0.leading_colon,
                segments,
            };
        }
    }
}

/// The part of a type that prevents it from being sent.
enum Culprit {
    Reference(TypeReference),
    Lifetime(Lifetime),
    ImplTrait(TypeImplTrait),
    SelfType(Ident),
}

/// The first culprit in `ty`.
fn find(ty: &Type, form: &Form) -> Option<Culprit> {
    let mut search = Search {
        knows_self: matches!(form, Form::Impl(_)),
        found: None,
    };
    // There is only a mutable visitor, for the sake of `ReplaceSelf`; this one changes nothing.
    search.visit_type_mut(&mut ty.clone());
    search.found
}

struct Search {
    knows_self: bool,
    found: Option<Culprit>,
}

impl VisitMut for Search {
    fn visit_type_mut(&mut self, ty: &mut Type) {
        match ty {
            _ if self.found.is_some() => {}
            Type::Reference(reference) => self.found = Some(Culprit::Reference(reference.clone())),
            Type::ImplTrait(ty) => self.found = Some(Culprit::ImplTrait(ty.clone())),
            // The parameters and the result of a function pointer are not sent.
            Type::BareFn(_) => {}
            ty => visit_mut::visit_type_mut(self, ty),
        }
    }

    fn visit_lifetime_mut(&mut self, lifetime: &mut Lifetime) {
        if lifetime.ident != "static" && self.found.is_none() {
            self.found = Some(Culprit::Lifetime(lifetime.clone()));
        }
    }

    fn visit_path_mut(&mut self, path: &mut Path) {
        match path.segments.first() {
            Some(first) if first.ident == "Self" && !self.knows_self && self.found.is_none() => {
                self.found = Some(Culprit::SelfType(first.ident.clone()));
            }
            _ => visit_mut::visit_path_mut(self, path),
        }
    }
}

fn is_future(ty: &TypeImplTrait) -> bool {
    ty.bounds.iter().any(|bound| match bound {
        syn::TypeParamBound::Trait(bound) => bound
            .path
            .segments
            .last()
            .is_some_and(|last| last.ident == "Future"),
        _ => false,
    })
}

/// The owned type to use in place of a reference to `ty`.
fn owned(ty: &Type) -> String {
    match ty {
        Type::Path(path) if path.path.is_ident("str") => "String".to_owned(),
        Type::Path(path) if path.path.is_ident("Path") => "PathBuf".to_owned(),
        Type::Slice(slice) => format!("Vec<{}>", source(&slice.elem)),
        ty => source(ty),
    }
}

/// `ty` as one writes it: tokens print with spaces between all of them.
fn source(ty: &Type) -> String {
    let mut text = ty.to_token_stream().to_string();
    for (spaced, tight) in [
        (" :: ", "::"),
        (" < ", "<"),
        (" >", ">"),
        (" ,", ","),
        ("& ", "&"),
    ] {
        text = text.replace(spaced, tight);
    }
    text
}

#[cfg(test)]
mod tests {
    use syn::parse_quote;

    use super::{as_result, owned, without_self};
    use crate::model::Form;

    #[test]
    fn result_is_recognised_by_its_last_segment() {
        assert!(as_result(&parse_quote!(u64)).is_none());
        assert!(as_result(&parse_quote!(Option<Result<u64, E>>)).is_none());
        assert_eq!(as_result(&parse_quote!(Result)), Some(None));
        let unit = parse_quote!(());
        assert_eq!(
            as_result(&parse_quote!(std::io::Result<()>)),
            Some(Some(&unit))
        );
    }

    #[test]
    fn references_are_answered_with_the_owned_type() {
        assert_eq!(owned(&parse_quote!(str)), "String");
        assert_eq!(
            owned(&parse_quote!([std::vec::Vec<u8>])),
            "Vec<std::vec::Vec<u8>>"
        );
    }

    #[test]
    fn self_in_a_message_becomes_the_service_type() {
        let form = Form::Impl(parse_quote!(a::Calc));
        let replaced = without_self(&parse_quote!(Vec<[Self; Self::N]>), &form);
        assert_eq!(replaced, parse_quote!(Vec<[a::Calc; a::Calc::N]>));
    }
}
