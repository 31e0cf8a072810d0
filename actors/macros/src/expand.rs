//! Generates messages, client and dispatch table from the model.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Ident, Type, Visibility, parse_quote};

use crate::model::{
    Answers, Argument, Codec, Form, Kind, Method, RawReply, Receiver, Service, Typed,
};

/// Everything that is generated beside the item.
pub(crate) fn service(service: &Service) -> TokenStream {
    let messages = service
        .methods
        .iter()
        .enumerate()
        .map(|(index, method)| match &method.kind {
            Kind::Typed(typed) => message(service, index, method, typed),
            Kind::Raw { .. } => TokenStream::new(),
        });
    let client = client(service);
    let description = description(service);
    let dispatch = dispatch(service);
    quote! {
        #(#messages)*
        #client
        #description
        #dispatch
    }
}

/// The type that implements `Service`: the service as callers declare it.
fn spec(service: &Service) -> TokenStream {
    let ident = &service.ident;
    match &service.form {
        Form::Impl(path) => quote!(#path),
        Form::Trait(_) => quote!(dyn #ident),
    }
}

fn client_ident(service: &Service) -> Ident {
    // Without an `r#`, and where the service stands.
    format_ident!(
        "{}Client",
        service.ident.unraw(),
        span = service.ident.span()
    )
}

fn message(service: &Service, index: usize, method: &Method, typed: &Typed) -> TokenStream {
    let definition = message_struct(service, method, typed);
    let spec = spec(service);
    let Typed {
        message,
        output,
        arguments,
        ..
    } = typed;
    let idents: Vec<_> = arguments.iter().map(|argument| &argument.ident).collect();
    let types: Vec<_> = arguments.iter().map(|argument| &argument.ty).collect();
    // To serde the empty tuple is nothing at all, but an empty array is a tuple without elements.
    let (owned, borrowed, arguments_of_self, pattern) = if idents.is_empty() {
        (quote!([(); 0]), quote!([(); 0]), quote!([]), quote!(_))
    } else {
        // Errors about an argument's type point at the argument.
        let span = types[0].span();
        (
            quote_spanned!(span=> (#(#types,)*)),
            quote_spanned!(span=> (#(&'__message #types,)*)),
            quote!((#(&self.#idents,)*)),
            quote!((#(#idents,)*)),
        )
    };
    // Should the message be more visible than the service, this is the line the compiler complains
    // about: let it point at the `pub` that is to blame.
    let of_service = match &method.visibility {
        Visibility::Inherited => quote!(type Service),
        visibility => quote_spanned!(visibility.span()=> type Service),
    };
    let answer = match typed.answers {
        Answers::Stream => quote! {
            impl ::slimerpc_actors::StreamCall for #message {
                type Item = #output;
            }
        },
        Answers::One | Answers::None => quote! {
            impl ::slimerpc_actors::Call for #message {
                type Output = #output;
            }
        },
    };
    quote! {
        #definition
        impl ::slimerpc_actors::Message for #message {
            #of_service = #spec;
            type Arguments = #owned;
            type ArgumentsRef<'__message> = #borrowed;
            const METHOD: usize = #index;
            fn arguments(&self) -> Self::ArgumentsRef<'_> {
                #arguments_of_self
            }
            fn from_arguments(#pattern: Self::Arguments) -> Self {
                Self { #(#idents),* }
            }
        }
        #answer
    }
}

fn message_struct(service: &Service, method: &Method, typed: &Typed) -> TokenStream {
    let called = format!("`{}::{}`", service.ident, method.name);
    let summary = format!("What is sent to call {called}.");
    let (visibility, message) = (&method.visibility, &typed.message);
    let fields = typed.arguments.iter().map(|argument| {
        let (ident, ty) = (&argument.ident, &argument.ty);
        let summary = format!("The argument `{ident}` of {called}.");
        quote!(#[doc = #summary] #visibility #ident: #ty)
    });
    if typed.arguments.is_empty() {
        return quote! {
            #[doc = #summary]
            #[derive(::core::clone::Clone, ::core::fmt::Debug)]
            #[allow(dead_code, unreachable_pub, private_interfaces)]
            #visibility struct #message;
        };
    }
    let traits = traits_of_arguments(typed);
    quote! {
        #[doc = #summary]
        #[allow(dead_code, unreachable_pub, private_interfaces)]
        #visibility struct #message { #(#fields,)* }
        #traits
    }
}

/// `Clone` and `Debug` for a message whose arguments have them. The lifetime makes the compiler
/// take the bounds for conditions, though there is no parameter that they depend on.
fn traits_of_arguments(typed: &Typed) -> TokenStream {
    let message = &typed.message;
    let name = message.to_string();
    let idents: Vec<_> = typed
        .arguments
        .iter()
        .map(|argument| &argument.ident)
        .collect();
    let names = idents.iter().map(|ident| ident.unraw().to_string());
    let types: Vec<_> = typed
        .arguments
        .iter()
        .map(|argument| &argument.ty)
        .collect();
    quote! {
        impl ::core::clone::Clone for #message
        where
            #(for<'__field> #types: ::slimerpc_actors::__private::CloneField<'__field>,)*
        {
            fn clone(&self) -> Self {
                Self { #(#idents: ::slimerpc_actors::__private::CloneField::clone_field(&self.#idents),)* }
            }
        }

        impl ::core::fmt::Debug for #message
        where
            #(for<'__field> #types: ::slimerpc_actors::__private::DebugField<'__field>,)*
        {
            fn fmt(&self, __formatter: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                let mut __message = __formatter.debug_struct(#name);
                #(__message.field(#names, ::slimerpc_actors::__private::DebugField::as_debug(&self.#idents));)*
                __message.finish()
            }
        }
    }
}

fn client(service: &Service) -> TokenStream {
    let client = client_ident(service);
    let spec = spec(service).to_string();
    let summary = format!("Calls `{spec}` on a peer. A `Proxy<{spec}>` dereferences to it.");
    let visibility = match &service.form {
        // The type may be public, and then so must this be; that cannot be seen from here.
        Form::Impl(_) => parse_quote!(pub),
        Form::Trait(visibility) => visibility.clone(),
    };
    let methods = service
        .methods
        .iter()
        .enumerate()
        .map(|(index, method)| client_method(service, index, method, &visibility));
    quote! {
        #[doc = #summary]
        #[derive(::core::clone::Clone)]
        #[allow(dead_code, unreachable_pub, non_camel_case_types)]
        #visibility struct #client(::slimerpc_actors::Caller);

        impl ::core::convert::From<::slimerpc_actors::Caller> for #client {
            fn from(__caller: ::slimerpc_actors::Caller) -> Self {
                Self(__caller)
            }
        }

        #[allow(dead_code, unreachable_pub, private_interfaces, clippy::too_many_arguments, clippy::type_complexity)]
        impl #client {
            #(#methods)*
        }
    }
}

fn client_method(
    service: &Service,
    index: usize,
    method: &Method,
    visibility: &Visibility,
) -> TokenStream {
    let (ident, attributes) = (&method.ident, &method.attributes);
    let summary = if attributes
        .iter()
        .any(|attribute| attribute.path().is_ident("doc"))
    {
        TokenStream::new()
    } else {
        let summary = format!("Calls `{}::{}`.", service.ident, method.name);
        quote!(#[doc = #summary])
    };
    let function = match &method.kind {
        Kind::Typed(typed) => {
            let Typed {
                message,
                arguments,
                output,
                ..
            } = &**typed;
            let idents: Vec<_> = arguments.iter().map(|argument| &argument.ident).collect();
            let types = arguments.iter().map(|argument| &argument.ty);
            let (returned, call) = match typed.answers {
                Answers::One => (quote!(Reply<#output>), quote!(call)),
                Answers::None => (quote!(Tell), quote!(tell)),
                Answers::Stream => (quote!(Items<#output>), quote!(stream)),
            };
            quote! {
                fn #ident(&self, #(#idents: #types),*) -> ::slimerpc_actors::#returned {
                    self.0.#call(#message { #(#idents),* })
                }
            }
        }
        Kind::Raw { .. } => {
            let with = format_ident!("{}_with", ident);
            let about = format!(
                "Calls `{}::{}` with a request that `fill` writes into send memory itself; it says how many bytes, and is called \
                 again with that much room if there was less.",
                service.ident, method.name
            );
            quote! {
                fn #ident(&self, request: &[u8]) -> ::slimerpc_actors::Reply<::std::vec::Vec<u8>> {
                    self.0.call_raw(#index, request)
                }
                #[doc = #about]
                #visibility fn #with(
                    &self,
                    fill: impl ::core::ops::FnMut(&mut [u8]) -> usize,
                ) -> ::slimerpc_actors::Reply<::std::vec::Vec<u8>> {
                    self.0.call_raw_with(#index, fill)
                }
            }
        }
    };
    quote!(#summary #(#attributes)* #visibility #function)
}

fn description(service: &Service) -> TokenStream {
    let (spec, client, name) = (spec(service), client_ident(service), &service.name);
    let methods = service.methods.iter().map(|method| &method.name);
    let parallel = service
        .methods
        .iter()
        .map(|method| method.shared().is_some());
    let streams = service.methods.iter().map(is_stream);
    let signatures = service.methods.iter().map(signature);
    let codec = match service.codec {
        Codec::Bincode => quote!(Bincode),
        Codec::Pickle => quote!(Pickle),
    };
    quote! {
        impl ::slimerpc_actors::Service for #spec {
            const NAME: &'static str = #name;
            const METHODS: &'static [&'static str] = &[#(#methods),*];
            const PARALLEL: &'static [bool] = &[#(#parallel),*];
            const STREAMS: &'static [bool] = &[#(#streams),*];
            const CODEC: ::slimerpc_actors::PayloadCodec = ::slimerpc_actors::PayloadCodec::#codec;
            type Client = #client;
            fn signatures() -> &'static [::slimerpc_actors::Signature] {
                static __SIGNATURES: ::std::sync::OnceLock<::std::vec::Vec<::slimerpc_actors::Signature>> =
                    ::std::sync::OnceLock::new();
                #[allow(unused_imports)]
                use ::slimerpc_actors::__private::{Shaped as _, Shapeless as _};
                __SIGNATURES.get_or_init(|| ::std::vec![#(#signatures),*])
            }
        }
    }
}

/// The expression that finds out which types `method` takes and returns.
fn signature(method: &Method) -> TokenStream {
    let name = &method.name;
    let of = quote!(::slimerpc_actors::Signature::of(#name));
    // A type that serde cannot handle is an error elsewhere; it must not be a second one here.
    let shape = |ty: &Type| {
        quote!(&(&::slimerpc_actors::__private::ShapeOf::<#ty>::new())
            .shape(<Self as ::slimerpc_actors::Service>::CODEC))
    };
    match &method.kind {
        Kind::Raw { .. } => quote!(#of.raw()),
        Kind::Typed(typed) => {
            let Typed {
                arguments, output, ..
            } = &**typed;
            let names = arguments
                .iter()
                .map(|argument| argument.ident.unraw().to_string());
            let shapes = arguments.iter().map(|argument| shape(&argument.ty));
            let gives = match typed.answers {
                Answers::Stream => quote!(streams),
                Answers::One | Answers::None => quote!(returns),
            };
            let output = shape(output);
            quote!(#of #(.argument(#names, #shapes))* .#gives(#output))
        }
    }
}

/// Names of locals begin with `__`: a static in the service's module may have any other name, and
/// cannot be hidden.
fn dispatch(service: &Service) -> TokenStream {
    let spec = spec(service);
    let shared = service.methods.iter().find_map(Method::shared);
    // A message may be called `A`, so the parameter must not be.
    let (generics, actor): (TokenStream, Type) = match &service.form {
        Form::Impl(path) => (TokenStream::new(), parse_quote!(#path)),
        Form::Trait(_) => {
            let ident = &service.ident;
            let shares = shared.map(|ty| quote!(+ ::slimerpc_actors::Share<Shared = #ty>));
            let generics = quote!(<__Actor: #ident #shares + 'static>);
            (generics, parse_quote!(__Actor))
        }
    };
    let arms = service.methods.iter().enumerate().map(|(index, method)| {
        let answer = if method.shared().is_some() {
            quote!(::slimerpc_actors::__private::answer_in_turn(
                __request,
                || ::slimerpc_actors::Share::share(&*::slimerpc_actors::__private::lend::<#actor, _>(__state)),
                |__shared, __request| <Self as ::slimerpc_actors::ServedBy<#actor>>::dispatch_parallel(__shared, __method, __request),
            ))
        } else {
            answer(service, method, &actor)
        };
        quote!(#index => #answer)
    });
    let parallel = shared.map_or_else(
        || {
            quote!(
                type Shared = ();
            )
        },
        |_| dispatch_parallel(service, &actor),
    );
    quote! {
        impl #generics ::slimerpc_actors::ServedBy<#actor> for #spec {
            // Handlers of one instance run one at a time, also across `.await`: the state is never
            // borrowed twice.
            #[allow(clippy::await_holding_refcell_ref, deprecated)]
            fn dispatch<'state, __State: ::core::borrow::BorrowMut<#actor> + 'state>(
                __state: &::std::rc::Rc<::core::cell::RefCell<__State>>,
                __method: usize,
                __request: ::slimerpc_actors::Request,
            ) -> ::slimerpc_actors::Dispatch<'state> {
                match __method {
                    #(#arms,)*
                    _ => ::core::convert::Into::into(::slimerpc_actors::__private::unknown_method(__request)),
                }
            }
            #parallel
        }
    }
}

/// The part of the dispatch for parallel methods.
fn dispatch_parallel(service: &Service, actor: &Type) -> TokenStream {
    let arms = service
        .methods
        .iter()
        .enumerate()
        .filter_map(|(index, method)| {
            method.shared()?;
            let answer = answer_parallel(service, method, actor);
            Some(quote!(#index => #answer))
        });
    quote! {
        type Shared = <#actor as ::slimerpc_actors::Share>::Shared;
        fn share(__state: &#actor) -> ::core::option::Option<::std::sync::Arc<Self::Shared>> {
            ::core::option::Option::Some(::slimerpc_actors::Share::share(__state))
        }
        #[allow(deprecated)]
        fn dispatch_parallel(
            __shared: ::std::sync::Arc<Self::Shared>,
            __method: usize,
            __request: ::slimerpc_actors::Request,
        ) -> ::slimerpc_actors::Parallel {
            match __method {
                #(#arms,)*
                _ => ::std::boxed::Box::pin(async move { ::slimerpc_actors::__private::unknown_method(__request) }),
            }
        }
    }
}

/// The expression that answers `request` with what a serial `method` returns.
fn answer(service: &Service, method: &Method, actor: &Type) -> TokenStream {
    let state = match method.receiver {
        Receiver::Mut => {
            quote!(&mut *::slimerpc_actors::__private::lend_mut::<#actor, _>(&__state))
        }
        _ => quote!(&*::slimerpc_actors::__private::lend::<#actor, _>(&__state)),
    };
    if is_stream(method) {
        // The stream may borrow the state for as long as it lasts.
        let answered = answered(service, method, actor, &quote!(__lent));
        return quote!({
            let __state = ::core::clone::Clone::clone(__state);
            ::slimerpc_actors::Dispatch::Running(::std::boxed::Box::pin(async move {
                let __lent = #state;
                #answered.await
            }))
        });
    }
    let answered = answered(service, method, actor, &state);
    if is_async(method) {
        quote!({
            let __state = ::core::clone::Clone::clone(__state);
            ::slimerpc_actors::Dispatch::Running(::std::boxed::Box::pin(#answered))
        })
    } else {
        quote!(::core::convert::Into::into(#answered))
    }
}

/// The expression that begins to answer `request` with what a parallel `method` returns.
fn answer_parallel(service: &Service, method: &Method, actor: &Type) -> TokenStream {
    let answered = answered(service, method, actor, &quote!(&*__shared));
    if is_stream(method) {
        // The stream may borrow what is shared.
        let answered = self::answered(service, method, actor, &quote!(__seen));
        quote!(::std::boxed::Box::pin(async move {
            let __seen = &*__shared;
            #answered.await
        }))
    } else if is_async(method) {
        quote!(::std::boxed::Box::pin(#answered))
    } else {
        quote!(::std::boxed::Box::pin(async move { #answered }))
    }
}

fn is_stream(method: &Method) -> bool {
    matches!(&method.kind, Kind::Typed(typed) if typed.answers == Answers::Stream)
}

fn is_async(method: &Method) -> bool {
    match &method.kind {
        Kind::Raw { is_async, .. } => *is_async,
        Kind::Typed(typed) => typed.is_async,
    }
}

/// The expression for the result of answering `request`, or for a future of it if `method` is
/// async. The method runs on `receiver`.
fn answered(
    service: &Service,
    method: &Method,
    actor: &Type,
    receiver: &TokenStream,
) -> TokenStream {
    let function = function(service, method, actor);
    match &method.kind {
        Kind::Raw { is_async, reply } => {
            let (form, arguments, parameters) = match reply {
                RawReply::Returned => ("raw", quote!(__bytes), quote!(__bytes: &[u8])),
                RawReply::Written => (
                    "inplace",
                    quote!(__bytes, __room),
                    quote!(__bytes: &[u8], __room: &mut [u8]),
                ),
                RawReply::Rewritten => ("rewritten", quote!(__bytes), quote!(__bytes: &mut [u8])),
            };
            let call = quote!(#function(#receiver, #arguments));
            let (answer, handler) = if *is_async {
                let outcome = outcome(service, method, quote!(#call.await));
                ("_async", quote!(async move |#parameters| #outcome))
            } else {
                let outcome = outcome(service, method, call);
                ("", quote!(|#parameters| #outcome))
            };
            let answer = format_ident!("answer_{form}{answer}");
            quote!(::slimerpc_actors::__private::#answer(__request, #handler))
        }
        Kind::Typed(typed) => {
            let Typed {
                message,
                arguments,
                is_async,
                ..
            } = &**typed;
            let fields = arguments.iter().map(|argument| &argument.ident);
            let call = quote!(#function(#receiver, #(__message.#fields),*));
            let pattern = message_pattern(arguments);
            if typed.answers == Answers::Stream {
                let outcome = outcome(service, method, quote!(__item));
                let item = if method.is_fallible {
                    quote!(|__item: ::core::result::Result<_, _>| #outcome)
                } else {
                    quote!(|__item| #outcome)
                };
                quote!(::slimerpc_actors::__private::answer_stream::<#message, _>(
                    __request,
                    move |#pattern| ::slimerpc_actors::__private::StreamExt::map(#call, #item),
                ))
            } else if *is_async {
                let outcome = outcome(service, method, quote!(#call.await));
                quote!(::slimerpc_actors::__private::answer_async::<#message, _>(
                    __request,
                    move |#pattern| async move { #outcome },
                ))
            } else {
                let outcome = outcome(service, method, call);
                quote!(::slimerpc_actors::__private::answer::<#message>(__request, |#pattern| #outcome))
            }
        }
    }
}

/// The path of `method`.
fn function(service: &Service, method: &Method, actor: &Type) -> TokenStream {
    let (name, ident) = (&service.ident, &method.ident);
    match &service.form {
        Form::Impl(path) => quote!(#path::#ident),
        Form::Trait(_) => quote!(<#actor as #name>::#ident),
    }
}

fn message_pattern(arguments: &[Argument]) -> TokenStream {
    if arguments.is_empty() {
        quote!(_)
    } else {
        quote!(__message)
    }
}

/// `call` as a `Result` whose error is the caller's.
fn outcome(service: &Service, method: &Method, call: TokenStream) -> TokenStream {
    if method.is_fallible {
        let spec = spec(service);
        quote!(#call.map_err(|__error| {
            #[allow(unused_imports)]
            use ::slimerpc_actors::__private::{TextOnly as _, WithValue as _};
            (&::slimerpc_actors::__private::Returned::new(__error))
                .failure(<#spec as ::slimerpc_actors::Service>::CODEC)
        }))
    } else {
        quote!(::core::result::Result::Ok(#call))
    }
}
