//! The other items in a service's module, as far as its source file shows them.
//!
//! A macro sees its item alone, and what two items of one module do to each other the compiler
//! tells in its own words, about code that nobody wrote. So this reads the file once more. What it
//! cannot find there, as in a module that a macro has written, is left to the compiler.

use std::fs;
use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use syn::visit_mut::{self, VisitMut};
use syn::{Attribute, Block, File, Item, ItemMod, Meta, Stmt};

use crate::errors::Errors;
use crate::model::{Form, Kind, Service};
use crate::options::ServiceOptions;
use crate::{conditional, impl_form, names, trait_form};

/// Another item in the same module.
pub(crate) enum Neighbour {
    /// A service that is declared further up.
    Service(Service),
    /// A type, trait or module of this name.
    Named(String),
}

/// The items beside `item`, which is the one in `file` that looks like it.
pub(crate) fn find(file: Option<&Path>, item: &TokenStream) -> Vec<Neighbour> {
    let source = file.and_then(|file| fs::read_to_string(file).ok());
    let parsed = source.and_then(|source| syn::parse_file(&source).ok());
    let Some(mut parsed) = parsed else {
        return Vec::new();
    };
    let mut modules = Modules(Vec::new());
    modules.visit_file_mut(&mut parsed);
    let mine = flat(item.clone());
    let place = |items: &Vec<Item>| {
        let is_mine = |item: &Item| {
            without_service(item).is_some_and(|item| flat(item.into_token_stream()) == mine)
        };
        items.iter().position(is_mine)
    };
    let mut found = modules.0.into_iter().filter_map(|items| {
        let at = place(&items)?;
        Some((at, items))
    });
    // If two look alike, nobody can say which is meant.
    let (Some((mine, items)), None) = (found.next(), found.next()) else {
        return Vec::new();
    };
    let beside = items.into_iter().enumerate();
    beside
        .filter(|(at, item)| *at != mine && !is_conditional(item))
        .filter_map(|(at, item)| neighbour(item, at < mine))
        .collect()
}

/// Refuses a second block for one type, and names that another item has.
pub(crate) fn check(service: &Service, neighbours: &[Neighbour], errors: &mut Errors) {
    let is_of_mine = |other: &Service| match (&service.form, &other.form) {
        (Form::Impl(mine), Form::Impl(other)) => mine == other,
        _ => false,
    };
    for neighbour in neighbours {
        match neighbour {
            Neighbour::Service(other) if is_of_mine(other) => {
                let text = format!(
                    "`{0}` has a block with `#[service]` already, and a service is one: write all methods that peers call into \
                     that block, and this one without `#[service]`",
                    service.ident
                );
                // Everything else about this block follows from that.
                return errors.at(&service.ident, text);
            }
            Neighbour::Service(other) => {
                for message in other.messages() {
                    let whose = format!("that of `{}::{}` is", other.ident, message.1);
                    names::check_taken(service, message.0, &whose, errors);
                }
            }
            Neighbour::Named(name) => {
                names::check_taken(service, name, "something else in this module is", errors);
            }
        }
    }
}

impl Service {
    /// The name of each message, and that of its method.
    fn messages(&self) -> impl Iterator<Item = (&syn::Ident, &str)> {
        self.methods.iter().filter_map(|method| match &method.kind {
            Kind::Typed(typed) => Some((&typed.message, &*method.name)),
            Kind::Raw { .. } => None,
        })
    }
}

fn neighbour(item: Item, is_before: bool) -> Option<Neighbour> {
    let options = service_attribute(attributes(&item)?).map(|attribute| match &attribute.meta {
        Meta::List(list) => list.tokens.clone(),
        _ => TokenStream::new(),
    });
    let Some(options) = options else {
        return name(&item).map(Neighbour::Named);
    };
    // Errors about it are reported where it stands.
    let errors = &mut Errors::default();
    let options = ServiceOptions::parse(options, errors);
    let service = match without_service(&item)? {
        Item::Impl(mut item) => impl_form::read(&mut item, options, errors),
        Item::Trait(mut item) => trait_form::read(&mut item, options, errors),
        _ => return None,
    };
    (is_before && errors.is_empty()).then_some(Neighbour::Service(service))
}

fn name(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Enum(item) => &item.ident,
        Item::Mod(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::TraitAlias(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(ident.to_string())
}

fn attributes(item: &Item) -> Option<&Vec<Attribute>> {
    Some(match item {
        Item::Enum(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::TraitAlias(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        _ => return None,
    })
}

/// Returns whether it may be missing in some builds.
fn is_conditional(item: &Item) -> bool {
    attributes(item).is_none_or(|attributes| {
        let mut attributes = attributes.iter();
        attributes
            .any(|attribute| conditional::comes_to(&attribute.meta, |path| path.is_ident("cfg")))
    })
}

fn service_attribute(attributes: &[Attribute]) -> Option<&Attribute> {
    attributes.iter().find(|attribute| is_service(attribute))
}

fn is_service(attribute: &Attribute) -> bool {
    let last = attribute.path().segments.last();
    last.is_some_and(|last| last.ident == "service")
}

/// `item` as its `#[service]` sees it, if it has one.
fn without_service(item: &Item) -> Option<Item> {
    let mut item = item.clone();
    let attributes = match &mut item {
        Item::Impl(item) => &mut item.attrs,
        Item::Trait(item) => &mut item.attrs,
        _ => return None,
    };
    let at = attributes.iter().position(is_service)?;
    attributes.remove(at);
    Some(item)
}

/// The items of each module and block.
struct Modules(Vec<Vec<Item>>);

impl VisitMut for Modules {
    fn visit_file_mut(&mut self, file: &mut File) {
        self.0.push(file.items.clone());
        visit_mut::visit_file_mut(self, file);
    }

    fn visit_item_mod_mut(&mut self, module: &mut ItemMod) {
        if let Some((_, items)) = &module.content {
            self.0.push(items.clone());
        }
        visit_mut::visit_item_mod_mut(self, module);
    }

    fn visit_block_mut(&mut self, block: &mut Block) {
        let items = block.stmts.iter().filter_map(|statement| match statement {
            Stmt::Item(item) => Some(item.clone()),
            _ => None,
        });
        self.0.push(items.collect());
        visit_mut::visit_block_mut(self, block);
    }
}

/// The tokens as text, whatever stands between them.
fn flat(tokens: TokenStream) -> String {
    let mut text = String::new();
    for token in tokens {
        match token {
            TokenTree::Group(group) => {
                text.push_str(&format!("{:?}", group.delimiter()));
                text.push_str(&flat(group.stream()));
                text.push('\n');
            }
            TokenTree::Literal(literal) => text.push_str(&literal.to_string()),
            TokenTree::Ident(ident) => text.push_str(&ident.to_string()),
            TokenTree::Punct(punct) => text.push(punct.as_char()),
        }
        text.push(' ');
    }
    text
}
