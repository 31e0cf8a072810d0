//! From the model to messages, client and dispatch table.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Ident, Type, Visibility, parse_quote};

use crate::model::{Argument, Codec, Form, Kind, Method, Service, Typed};

/// All that is generated beside the item.
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

/// The type that implements `Service`: the service as callers know it.
fn spec(service: &Service) -> TokenStream {
    let ident = &service.ident;
    match &service.form {
        Form::Impl(path) => quote!(#path),
        Form::Trait(_) => quote!(dyn #ident),
    }
}

fn client_ident(service: &Service) -> Ident {
    format_ident!("{}Client", service.ident)
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
        // What is wrong with an argument's type is said where that stands.
        let span = types[0].span();
        (
            quote_spanned!(span=> (#(#types,)*)),
            quote_spanned!(span=> (#(&'a #types,)*)),
            quote!((#(&self.#idents,)*)),
            quote!((#(#idents,)*)),
        )
    };
    // Should the message be more visible than the service, this is the line the compiler complains about: let it point
    // at the `pub` that is to blame.
    let of_service = match &method.visibility {
        Visibility::Inherited => quote!(type Service),
        visibility => quote_spanned!(visibility.span()=> type Service),
    };
    quote! {
        #definition
        impl ::slimerpc_actors::Call for #message {
            #of_service = #spec;
            type Output = #output;
            type Arguments = #owned;
            type ArgumentsRef<'a> = #borrowed;
            const METHOD: usize = #index;
            fn arguments(&self) -> Self::ArgumentsRef<'_> {
                #arguments_of_self
            }
            fn from_arguments(#pattern: Self::Arguments) -> Self {
                Self { #(#idents),* }
            }
        }
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
    let body = if typed.arguments.is_empty() {
        quote!(;)
    } else {
        quote!({ #(#fields,)* })
    };
    quote! {
        #[doc = #summary]
        #[allow(dead_code, unreachable_pub, private_interfaces)]
        #visibility struct #message #body
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
        #[allow(dead_code, unreachable_pub)]
        #visibility struct #client(::slimerpc_actors::Caller);

        impl ::core::convert::From<::slimerpc_actors::Caller> for #client {
            fn from(caller: ::slimerpc_actors::Caller) -> Self {
                Self(caller)
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
            if typed.is_oneway {
                return quote! {
                    #summary #(#attributes)*
                    #visibility fn #ident(&self, #(#idents: #types),*) -> ::slimerpc_actors::Tell {
                        self.0.tell(#message { #(#idents),* })
                    }
                };
            }
            quote! {
                fn #ident(&self, #(#idents: #types),*) -> ::slimerpc_actors::Reply<#output> {
                    self.0.call(#message { #(#idents),* })
                }
            }
        }
        Kind::Raw { .. } => {
            let with = format_ident!("{}_with", ident);
            let about = format!(
                "Calls `{}::{}` with a request that `fill` writes into send memory itself; it says how many bytes.",
                service.ident, method.name
            );
            quote! {
                fn #ident(&self, request: &[u8]) -> ::slimerpc_actors::Reply<::std::vec::Vec<u8>> {
                    self.0.call_raw(#index, request)
                }
                #[doc = #about]
                #visibility fn #with(
                    &self,
                    fill: impl ::core::ops::FnOnce(&mut [u8]) -> usize,
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
    let codec = match service.codec {
        Codec::Bincode => quote!(Bincode),
        Codec::Pickle => quote!(Pickle),
    };
    quote! {
        impl ::slimerpc_actors::Service for #spec {
            const NAME: &'static str = #name;
            const METHODS: &'static [&'static str] = &[#(#methods),*];
            const CODEC: ::slimerpc_actors::PayloadCodec = ::slimerpc_actors::PayloadCodec::#codec;
            type Client = #client;
        }
    }
}

fn dispatch(service: &Service) -> TokenStream {
    let spec = spec(service);
    // A message may be called `A`, so the parameter must not be.
    let (generics, actor): (TokenStream, Type) = match &service.form {
        Form::Impl(path) => (TokenStream::new(), parse_quote!(#path)),
        Form::Trait(_) => {
            let ident = &service.ident;
            (quote!(<__Actor: #ident + 'static>), parse_quote!(__Actor))
        }
    };
    let arms = service.methods.iter().enumerate().map(|(index, method)| {
        let answer = answer(service, method, &actor);
        quote!(#index => #answer)
    });
    quote! {
        impl #generics ::slimerpc_actors::ServedBy<#actor> for #spec {
            // Handlers of one instance run one at a time, also across `.await`: the state is never borrowed twice.
            #[allow(clippy::await_holding_refcell_ref, deprecated)]
            fn dispatch(
                state: &::std::rc::Rc<::core::cell::RefCell<#actor>>,
                method: usize,
                request: ::slimerpc_actors::Request,
            ) -> ::slimerpc_actors::Dispatch {
                match method {
                    #(#arms,)*
                    _ => ::slimerpc_actors::__private::unknown_method(request),
                }
            }
        }
    }
}

/// The expression that answers `request` with what `method` returns.
fn answer(service: &Service, method: &Method, actor: &Type) -> TokenStream {
    let function = function(service, method, actor);
    match &method.kind {
        Kind::Raw {
            is_async,
            is_inplace,
        } => answer_raw(method, &function, *is_async, *is_inplace),
        Kind::Typed(typed) if typed.is_async => answer_async(method, typed, &function),
        Kind::Typed(typed) => {
            let (message, arguments) = (&typed.message, &typed.arguments);
            let state = borrowed_state(method);
            let fields = arguments.iter().map(|argument| &argument.ident);
            let outcome = outcome(method, quote!(#function(#state, #(message.#fields),*)));
            let pattern = message_pattern(arguments);
            quote!(::slimerpc_actors::__private::answer::<#message>(request, |#pattern| #outcome))
        }
    }
}

fn answer_raw(
    method: &Method,
    function: &TokenStream,
    is_async: bool,
    is_inplace: bool,
) -> TokenStream {
    let state = borrowed_state(method);
    let (arguments, parameters) = if is_inplace {
        (quote!(bytes, room), quote!(bytes: &[u8], room: &mut [u8]))
    } else {
        (quote!(bytes), quote!(bytes: &[u8]))
    };
    let answer = match (is_async, is_inplace) {
        (false, false) => quote!(answer_raw),
        (false, true) => quote!(answer_inplace),
        (true, false) => quote!(answer_raw_async),
        (true, true) => quote!(answer_inplace_async),
    };
    if is_async {
        let outcome = outcome(method, quote!(#function(#state, #arguments).await));
        quote!({
            let state = ::std::rc::Rc::clone(state);
            ::slimerpc_actors::__private::#answer(request, async move |#parameters| #outcome)
        })
    } else {
        let outcome = outcome(method, quote!(#function(#state, #arguments)));
        quote!(::slimerpc_actors::__private::#answer(request, |#parameters| #outcome))
    }
}

fn answer_async(method: &Method, typed: &Typed, function: &TokenStream) -> TokenStream {
    let Typed {
        message, arguments, ..
    } = typed;
    let state = borrowed_state(method);
    let fields = arguments.iter().map(|argument| &argument.ident);
    let outcome = outcome(
        method,
        quote!(#function(#state, #(message.#fields),*).await),
    );
    let pattern = message_pattern(arguments);
    quote!({
        let state = ::std::rc::Rc::clone(state);
        ::slimerpc_actors::__private::answer_async::<#message, _>(request, move |#pattern| async move { #outcome })
    })
}

/// The path of `method`.
fn function(service: &Service, method: &Method, actor: &Type) -> TokenStream {
    let (name, ident) = (&service.ident, &method.ident);
    match &service.form {
        Form::Impl(path) => quote!(#path::#ident),
        Form::Trait(_) => quote!(<#actor as #name>::#ident),
    }
}

fn borrowed_state(method: &Method) -> TokenStream {
    if method.is_mut {
        quote!(&mut state.borrow_mut())
    } else {
        quote!(&state.borrow())
    }
}

fn message_pattern(arguments: &[Argument]) -> TokenStream {
    if arguments.is_empty() {
        quote!(_)
    } else {
        quote!(message)
    }
}

/// `call` as a `Result` whose error is what the caller sees.
fn outcome(method: &Method, call: TokenStream) -> TokenStream {
    if method.is_fallible {
        quote!(#call.map_err(|error| {
            #[allow(unused_imports)]
            use ::slimerpc_actors::__private::{TextOnly as _, WithValue as _};
            (&::slimerpc_actors::__private::Returned::new(error)).failure()
        }))
    } else {
        quote!(::core::result::Result::Ok(#call))
    }
}
