//! Turns the `impl` or the trait into the model, and the item as it is returned.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote};
use syn::ext::IdentExt;
use syn::{Attribute, Error, Ident, Item, Path};

use crate::errors::Errors;
use crate::model::{Form, Method, Service};
use crate::options::{MethodOptions, ServiceOptions};
use crate::{conditional, crate_path, expand, impl_form, names, neighbours, trait_form};

/// Where `#[service]` may stand.
pub(crate) const FORMS: &str =
    "`#[service]` goes on an inherent `impl Calc { .. }` or on a `trait Calculator { .. }`";

/// Why neither form is generic.
pub(crate) const GENERIC_SERVICE: &str =
    "peers know a service by one name, so it cannot be generic; name the types";

/// Expands `#[service]`: returns the item with the generated code, or with errors.
pub(crate) fn service(
    options: TokenStream,
    item: TokenStream,
    file: Option<&std::path::Path>,
) -> TokenStream {
    let mut errors = Errors::default();
    let mut options = ServiceOptions::parse(options, &mut errors);
    let crate_path = crate_path::find(options.crate_path.take());
    let neighbours = neighbours::find(file, &item);
    let item = match syn::parse2::<Item>(item) {
        Ok(item) => item,
        Err(error) => return error.into_compile_error(),
    };
    let (item, service) = match item {
        Item::Impl(mut item) => {
            let service = impl_form::read(&mut item, options, &mut errors);
            (item.into_token_stream(), Some(service))
        }
        Item::Trait(mut item) => {
            let service = trait_form::read(&mut item, options, &mut errors);
            (item.into_token_stream(), Some(service))
        }
        item => {
            errors.push(Error::new(Span::call_site(), FORMS));
            (item.into_token_stream(), None)
        }
    };
    if let (Some(service), true) = (&service, errors.is_empty()) {
        neighbours::check(service, &neighbours, &mut errors);
    }
    let generated = match service {
        Some(service) if errors.is_empty() => match crate_path {
            Ok(path) => crate_path::put(&path, expand::service(&service)),
            Err(error) => error.into_compile_error(),
        },
        _ => errors.into_tokens(),
    };
    quote!(#item #generated)
}

/// Expands a `#[method]` outside of a `#[service]`: an error.
pub(crate) fn stray_method(item: TokenStream) -> TokenStream {
    let error = Error::new(
        Span::call_site(),
        "`#[method]` marks a method of a service; put `#[service]` on the `impl` or trait around it (inside of one it is \
         known as `method`, whatever the path before that)",
    )
    .into_compile_error();
    quote!(#error #item)
}

/// Checks the rules about all methods together, and sorts the methods in the order of the table.
pub(crate) fn finish(
    ident: Ident,
    form: Form,
    options: ServiceOptions,
    mut methods: Vec<Method>,
    errors: &mut Errors,
) -> Service {
    if methods.is_empty() && errors.is_empty() {
        errors.at(
            &ident,
            "this service has no method that peers could call; put `#[method]` on those they may",
        );
    }
    names::check_unique(&ident, &methods, errors);
    names::check_hidden(&ident, &methods, errors);
    // `str` compares by bytes, which for UTF-8 is the order of code points.
    methods.sort_by(|one, other| one.name.cmp(&other.name));
    let name = options.name.unwrap_or_else(|| ident.unraw().to_string());
    Service {
        ident,
        form,
        name,
        codec: options.codec.unwrap_or_default(),
        methods,
    }
}

/// Takes `#[method]` out of `attributes`.
pub(crate) fn take_method(
    attributes: &mut Vec<Attribute>,
    errors: &mut Errors,
) -> Option<MethodOptions> {
    let mut options = None;
    let is_maybe = |attribute: &mut Attribute| {
        !is_method(attribute) && conditional::comes_to(&attribute.meta, is_called_method)
    };
    for attribute in attributes.extract_if(.., is_maybe) {
        errors.at(
            &attribute,
            "a function is a method in all builds or in none, as peers know the table of methods; write `#[method]` without \
             `cfg_attr`",
        );
    }
    for attribute in attributes.extract_if(.., |attribute| is_method(attribute)) {
        if options.is_some() {
            errors.at(&attribute, "`#[method]` is given twice");
        }
        options = Some(MethodOptions::parse(&attribute, errors));
    }
    options
}

/// Takes `#[method]` out of the attributes of something that cannot be one.
pub(crate) fn refuse_method(attributes: &mut Vec<Attribute>, errors: &mut Errors) {
    for attribute in attributes.extract_if(.., |attribute| is_method(attribute)) {
        errors.at(&attribute, "`#[method]` goes on functions");
    }
}

fn is_method(attribute: &Attribute) -> bool {
    is_called_method(attribute.path())
}

/// Returns whether this is the path of `#[method]`, which may be re-exported under any path.
fn is_called_method(path: &Path) -> bool {
    let last = path.segments.last();
    last.is_some_and(|last| last.ident == "method")
}
