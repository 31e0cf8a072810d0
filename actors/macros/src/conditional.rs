//! Attributes under a condition: `#[cfg_attr(unix, cfg(any()))]`.

use syn::punctuated::Punctuated;
use syn::{Meta, Path, Token};

/// Returns whether `is` accepts this attribute, or one that it becomes in some build.
pub(crate) fn comes_to(meta: &Meta, is: fn(&Path) -> bool) -> bool {
    match conditional(meta) {
        Some(inner) => inner.iter().any(|inner| comes_to(inner, is)),
        None => is(meta.path()),
    }
}

/// Returns whether `is` accepts this attribute, or all that it becomes.
pub(crate) fn comes_only_to(meta: &Meta, is: fn(&Path) -> bool) -> bool {
    match conditional(meta) {
        Some(inner) => inner.iter().all(|inner| comes_only_to(inner, is)),
        None => is(meta.path()),
    }
}

/// The attributes behind the condition of a `cfg_attr`.
fn conditional(meta: &Meta) -> Option<Vec<Meta>> {
    let Meta::List(list) = meta else { return None };
    if !list.path.is_ident("cfg_attr") {
        return None;
    }
    let parsed = list.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated);
    // The compiler refuses what does not parse.
    Some(parsed.ok()?.into_iter().skip(1).collect())
}

#[cfg(test)]
mod tests {
    use syn::{Attribute, parse_quote};

    use super::*;

    #[test]
    fn conditions_are_looked_through() {
        let is_cfg = |path: &Path| path.is_ident("cfg");
        let nested: Attribute =
            parse_quote!(#[cfg_attr(unix, doc = "x", cfg_attr(all(), cfg(any())))]);
        assert!(comes_to(&nested.meta, is_cfg));
        assert!(!comes_only_to(&nested.meta, is_cfg));
        let only: Attribute = parse_quote!(#[cfg_attr(unix, cfg(any()))]);
        assert!(comes_only_to(&only.meta, is_cfg));
        let other: Attribute = parse_quote!(#[cfg_attr(cfg, doc = "cfg")]);
        assert!(!comes_to(&other.meta, is_cfg));
    }
}
