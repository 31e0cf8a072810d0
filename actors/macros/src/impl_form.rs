//! `#[service]` on an inherent `impl`.

use proc_macro2::Span;
use syn::{Ident, ImplItem, ItemImpl, Path, PathArguments, Type, parse_quote};

use crate::errors::Errors;
use crate::model::{Form, Service};
use crate::options::ServiceOptions;
use crate::parse::{FORMS, GENERIC_SERVICE, finish, refuse_method, take_method};
use crate::signature::{Candidate, Reader};

/// Reads the service, and takes its attributes out of `item`.
pub(crate) fn read(item: &mut ItemImpl, options: ServiceOptions, errors: &mut Errors) -> Service {
    let path = service_type(item, errors);
    let ident = path.segments.last().map_or_else(
        || Ident::new("Service", Span::call_site()),
        |last| last.ident.clone(),
    );
    let form = Form::Impl(path);
    let mut methods = Vec::new();
    for item in &mut item.items {
        match item {
            ImplItem::Fn(function) => {
                let Some(method) = take_method(&mut function.attrs, errors) else {
                    continue;
                };
                let candidate = Candidate {
                    options: method,
                    attributes: &function.attrs,
                    visibility: function.vis.clone(),
                    signature: &function.sig,
                };
                methods.push(Reader::new(&form, &options, errors).method(candidate));
            }
            ImplItem::Const(item) => refuse_method(&mut item.attrs, errors),
            ImplItem::Type(item) => refuse_method(&mut item.attrs, errors),
            _ => {}
        }
    }
    finish(ident, form, options, methods, errors)
}

/// The type that `item` implements, or some stand-in and an error.
fn service_type(item: &ItemImpl, errors: &mut Errors) -> Path {
    if let Some((_, path, _)) = &item.trait_ {
        let text =
            format!("{FORMS}; to serve implementations of a trait, put it on the trait itself");
        errors.at(path, text);
    } else if !item.generics.params.is_empty() {
        errors.at(&item.generics.params, GENERIC_SERVICE);
    }
    match &*item.self_ty {
        Type::Path(ty) if ty.qself.is_none() => {
            let arguments = ty.path.segments.iter().map(|segment| &segment.arguments);
            let mut arguments =
                arguments.filter(|arguments| !matches!(arguments, PathArguments::None));
            if let (Some(arguments), true) = (arguments.next(), errors.is_empty()) {
                errors.at(arguments, GENERIC_SERVICE);
            }
            ty.path.clone()
        }
        other => {
            if errors.is_empty() {
                errors.at(other, FORMS);
            }
            parse_quote!(Self)
        }
    }
}
