//! `#[service]` on a trait.

use syn::{ItemTrait, ReturnType, Signature, TraitItem, TraitItemFn, Type, parse_quote};

use crate::errors::Errors;
use crate::model::{Form, Service};
use crate::options::ServiceOptions;
use crate::parse::{GENERIC_SERVICE, finish, refuse_method, take_method};
use crate::signature::{Candidate, Reader};

/// Reads the service, takes its attributes out of `item` and makes that dyn compatible.
pub(crate) fn read(item: &mut ItemTrait, options: ServiceOptions, errors: &mut Errors) -> Service {
    check_trait(item, errors);
    let form = Form::Trait(item.vis.clone());
    let mut methods = Vec::new();
    for trait_item in &mut item.items {
        match trait_item {
            TraitItem::Fn(function) => {
                let mut is_parallel = false;
                let mut is_stream = false;
                if let Some(method) = take_method(&mut function.attrs, errors) {
                    is_parallel = method.parallel.is_some();
                    is_stream = method.stream.is_some();
                    let candidate = Candidate {
                        options: method,
                        attributes: &function.attrs,
                        visibility: item.vis.clone(),
                        signature: &function.sig,
                    };
                    methods.push(Reader::new(&form, &options, errors).method(candidate));
                }
                make_dyn_compatible(function, is_parallel);
                if is_parallel && is_stream {
                    make_send(&mut function.sig.output);
                }
            }
            TraitItem::Const(item) => {
                refuse_method(&mut item.attrs, errors);
                errors.at(&item.ident, no_associated("constant"));
            }
            TraitItem::Type(item) => {
                refuse_method(&mut item.attrs, errors);
                errors.at(&item.ident, no_associated("type"));
            }
            _ => {}
        }
    }
    finish(item.ident.clone(), form, options, methods, errors)
}

fn check_trait(item: &ItemTrait, errors: &mut Errors) {
    if let Some(token) = &item.unsafety {
        errors.at(
            token,
            "a service is implemented in safe code, so its trait cannot be `unsafe`",
        );
    }
    if !item.generics.params.is_empty() {
        errors.at(&item.generics.params, GENERIC_SERVICE);
    }
}

fn no_associated(what: &str) -> String {
    format!(
        "callers know the service as `dyn Trait`, whatever implements it, so the trait cannot have an associated {what}"
    )
}

/// Allows `dyn Trait` in spite of `function`, which is never called on one.
fn make_dyn_compatible(function: &mut TraitItemFn, is_parallel: bool) {
    let bounds = function.sig.generics.make_where_clause();
    bounds.predicates.push(parse_quote!(Self: Sized));
    if function.sig.asyncness.take().is_some() {
        desugar_async(function, is_parallel);
    }
}

/// The stream of a parallel method is polled on threads of a pool.
fn make_send(output: &mut ReturnType) {
    if let ReturnType::Type(_, ty) = output
        && let Type::ImplTrait(stream) = &mut **ty
    {
        stream.bounds.push(parse_quote!(::core::marker::Send));
    }
}

/// Makes `async fn` a function that returns a future, because a public trait had better not have
/// the former. That of a parallel method must be `Send`.
fn desugar_async(function: &mut TraitItemFn, is_parallel: bool) {
    let Signature { output, .. } = &mut function.sig;
    let reply: Type = match output {
        ReturnType::Default => parse_quote!(()),
        ReturnType::Type(_, ty) => (**ty).clone(),
    };
    *output = if is_parallel {
        parse_quote!(-> impl ::core::future::Future<Output = #reply> + ::core::marker::Send)
    } else {
        parse_quote!(-> impl ::core::future::Future<Output = #reply>)
    };
    if let Some(body) = &mut function.default {
        *body = parse_quote!({ async move #body });
        function
            .attrs
            .push(parse_quote!(#[allow(clippy::manual_async_fn)]));
    }
}
