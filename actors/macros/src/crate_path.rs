//! Finds the crate that the generated code refers to.
//!
//! `expand` writes `::slimerpc_actors`. A crate may have it under another name, or through a crate
//! that re-exports it.

use proc_macro_crate::{Error as NotFound, FoundCrate, crate_name};
use proc_macro2::{Group, Span, TokenStream, TokenTree};
use quote::ToTokens;
use syn::{Error, Ident, Path, parse_quote};

const PACKAGE: &str = "slimerpc-actors";
const WRITTEN: &str = "slimerpc_actors";

/// The path of the crate: as `#[service(crate = ..)]` says, or else from the `Cargo.toml` of the
/// crate that is compiled.
pub(crate) fn find(given: Option<Path>) -> Result<Path, Error> {
    if let Some(given) = given {
        return Ok(given);
    }
    match crate_name(PACKAGE) {
        Ok(FoundCrate::Name(name)) => {
            let name = Ident::new(&name, Span::call_site());
            Ok(parse_quote!(::#name))
        }
        Err(NotFound::CrateNotFound { .. }) => Err(Error::new(
            Span::call_site(),
            "the generated code refers to `slimerpc-actors`, on which this crate does not depend; add it to `Cargo.toml`, or say \
             where another crate re-exports it: `#[service(crate = slime::rpc)]`",
        )),
        // Its own tests and examples, or a build without Cargo.
        Ok(FoundCrate::Itself) | Err(_) => {
            let name = Ident::new(WRITTEN, Span::call_site());
            Ok(parse_quote!(::#name))
        }
    }
}

/// Replaces `::slimerpc_actors` in `tokens` with `path`.
pub(crate) fn put(path: &Path, tokens: TokenStream) -> TokenStream {
    let mut put: Vec<TokenTree> = Vec::new();
    for token in tokens {
        match token {
            TokenTree::Group(group) => {
                let mut inner = Group::new(group.delimiter(), self::put(path, group.stream()));
                inner.set_span(group.span());
                put.push(inner.into());
            }
            TokenTree::Ident(ident) if ident == WRITTEN && is_absolute(&put) => {
                put.truncate(put.len() - 2);
                put.extend(path.to_token_stream());
            }
            other => put.push(other),
        }
    }
    put.into_iter().collect()
}

/// Returns whether a path that follows these tokens begins with `::`.
fn is_absolute(before: &[TokenTree]) -> bool {
    let is_colon =
        |token: &TokenTree| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ':');
    match before {
        [.., TokenTree::Ident(ident), first, second] if is_colon(first) && is_colon(second) => {
            !is_segment(&ident.to_string())
        }
        [.., first, second] => is_colon(first) && is_colon(second),
        _ => false,
    }
}

/// Returns whether this can be a segment of a path, and is no keyword before one, as `impl`.
fn is_segment(ident: &str) -> bool {
    ["Self", "self", "super", "crate"].contains(&ident) || syn::parse_str::<Ident>(ident).is_ok()
}

#[cfg(test)]
mod tests {
    use quote::quote;

    use super::*;

    #[test]
    fn only_what_begins_at_the_root_is_put_elsewhere() {
        let path = parse_quote!(slime::rpc);
        let put = put(
            &path,
            quote! {
                impl ::slimerpc_actors::Service for a::slimerpc_actors::Calc {
                    const X: u8 = <u8 as ::slimerpc_actors::X>::X;
                    fn x() -> ::slimerpc_actors::Reply<crate::slimerpc_actors::X>;
                }
            },
        );
        let expected = quote! {
            impl slime::rpc::Service for a::slimerpc_actors::Calc {
                const X: u8 = <u8 as slime::rpc::X>::X;
                fn x() -> slime::rpc::Reply<crate::slimerpc_actors::X>;
            }
        };
        assert_eq!(put.to_string(), expected.to_string());
    }
}
