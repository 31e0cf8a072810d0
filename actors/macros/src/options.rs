//! The options of `#[service(..)]` and `#[method(..)]`.

use proc_macro2::TokenStream;
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::{Attribute, Error, Ident, LitStr, Meta, Path, Result, Token};

use crate::errors::Errors;
use crate::model::Codec;

/// `#[service(name = "..", prefix = "..", codec = "..", crate = ..)]`.
#[derive(Default)]
pub(crate) struct ServiceOptions {
    /// Name of the service for peers.
    pub(crate) name: Option<String>,
    /// Prefix of the names of its messages.
    pub(crate) prefix: Option<String>,
    /// The codec of payloads between native agents.
    pub(crate) codec: Option<Codec>,
    /// Path of `slimerpc-actors`.
    pub(crate) crate_path: Option<Path>,
}

impl ServiceOptions {
    /// Reads the options; errors go to `errors`.
    pub(crate) fn parse(tokens: TokenStream, errors: &mut Errors) -> Self {
        let mut options = Self::default();
        let parser = |input: ParseStream<'_>| {
            each_option(input, errors, |option, input| options.read(option, input))
        };
        if let Err(error) = parser.parse2(tokens) {
            errors.push(error);
        }
        options
    }

    fn read(&mut self, option: &Ident, input: ParseStream<'_>) -> Result<()> {
        match option.to_string().as_str() {
            "name" => set(&mut self.name, option, service_name(option, input)?),
            "prefix" => set(&mut self.prefix, option, message_prefix(option, input)?),
            "codec" => set(&mut self.codec, option, codec(option, input)?),
            "crate" => set(&mut self.crate_path, option, crate_path(option, input)?),
            other => Err(Error::new(
                option.span(),
                format!(
                    "`#[service]` has no option `{other}`; it knows `name = \"calc.v1\"`, `prefix = \"Calc\"`, \
                     `codec = \"pickle\"` and `crate = path`"
                ),
            )),
        }
    }
}

/// `#[method(raw, inplace)]`.
#[derive(Default)]
pub(crate) struct MethodOptions {
    /// The token `raw`, if the method takes bytes.
    pub(crate) raw: Option<Ident>,
    /// The token `inplace`, if it writes its reply into send memory itself.
    pub(crate) inplace: Option<Ident>,
    /// The token `oneway`, if callers do not wait for it.
    pub(crate) oneway: Option<Ident>,
    /// The token `stream`, if it returns a stream of items.
    pub(crate) stream: Option<Ident>,
    /// The token `parallel`, if it runs beside serial methods.
    pub(crate) parallel: Option<Ident>,
}

impl MethodOptions {
    /// Reads the options of one `#[method]`; errors go to `errors`.
    pub(crate) fn parse(attribute: &Attribute, errors: &mut Errors) -> Self {
        let mut options = Self::default();
        let result = match &attribute.meta {
            Meta::Path(_) => Ok(()),
            Meta::List(list) => list.parse_args_with(|input: ParseStream<'_>| {
                each_option(input, errors, |option, _| options.read(option))
            }),
            Meta::NameValue(meta) => Err(Error::new_spanned(
                meta,
                "write `#[method]`, or `#[method(raw)]` for a method that takes bytes",
            )),
        };
        if let Err(error) = result {
            errors.push(error);
        }
        if let (Some(inplace), None) = (&options.inplace, &options.raw) {
            let text = "`inplace` is for methods that pass bytes: write `#[method(raw, inplace)]`";
            errors.at(inplace, text);
        }
        if let (Some(oneway), Some(_)) = (&options.oneway, &options.raw) {
            errors.at(oneway, "a method that passes bytes back cannot be `oneway`");
        }
        if let (Some(stream), Some(_)) = (&options.stream, &options.raw) {
            let text = "the items of a stream are values: for bytes let it give back `impl Stream<Item = Vec<u8>>`, without `raw`";
            errors.at(stream, text);
        }
        if let (Some(stream), Some(_)) = (&options.stream, &options.oneway) {
            errors.at(
                stream,
                "nobody waits for a `oneway` method, so nobody would take the items of its stream",
            );
        }
        options
    }

    fn read(&mut self, option: &Ident) -> Result<()> {
        match option.to_string().as_str() {
            "raw" => set(&mut self.raw, option, option.clone()),
            "inplace" => set(&mut self.inplace, option, option.clone()),
            "oneway" => set(&mut self.oneway, option, option.clone()),
            "stream" => set(&mut self.stream, option, option.clone()),
            "parallel" => set(&mut self.parallel, option, option.clone()),
            other => Err(Error::new(
                option.span(),
                format!(
                    "`#[method]` has no option `{other}`; it knows `raw`, `inplace`, `oneway`, `stream` and \
                     `parallel`"
                ),
            )),
        }
    }
}

/// Reads options separated by commas; goes on after a bad one.
fn each_option(
    input: ParseStream<'_>,
    errors: &mut Errors,
    mut read: impl FnMut(&Ident, ParseStream<'_>) -> Result<()>,
) -> Result<()> {
    while !input.is_empty() {
        let option = match input.peek(Token![crate]) {
            true => input.call(Ident::parse_any)?,
            false => input.parse()?,
        };
        if let Err(error) = read(&option, input) {
            errors.push(error);
            skip_to_comma(input)?;
        }
        if !input.is_empty() {
            input.parse::<Token![,]>()?;
        }
    }
    Ok(())
}

fn skip_to_comma(input: ParseStream<'_>) -> Result<()> {
    while !input.is_empty() && !input.peek(Token![,]) {
        input.parse::<proc_macro2::TokenTree>()?;
    }
    Ok(())
}

fn set<T>(slot: &mut Option<T>, option: &Ident, value: T) -> Result<()> {
    if slot.replace(value).is_some() {
        return Err(Error::new(
            option.span(),
            format!("`{option}` is given twice"),
        ));
    }
    Ok(())
}

fn string(option: &Ident, input: ParseStream<'_>) -> Result<LitStr> {
    let usage = format!("`{option}` takes a string: `{option} = \"Calc\"`");
    if !input.peek(Token![=]) {
        return Err(Error::new(option.span(), usage));
    }
    input.parse::<Token![=]>()?;
    input
        .parse()
        .map_err(|error| Error::new(error.span(), usage))
}

fn service_name(option: &Ident, input: ParseStream<'_>) -> Result<String> {
    let literal = string(option, input)?;
    if literal.value().is_empty() {
        return Err(Error::new(
            literal.span(),
            "the name of a service cannot be empty",
        ));
    }
    Ok(literal.value())
}

fn codec(option: &Ident, input: ParseStream<'_>) -> Result<Codec> {
    let literal = string(option, input)?;
    match literal.value().as_str() {
        "bincode" => Ok(Codec::Bincode),
        "pickle" => Ok(Codec::Pickle),
        other => Err(Error::new(
            literal.span(),
            format!(
                "there is no codec `{other}`; there are \"bincode\", the default, and \"pickle\""
            ),
        )),
    }
}

/// `crate = slime::rpc`; as serde's, it may be a string.
fn crate_path(option: &Ident, input: ParseStream<'_>) -> Result<Path> {
    let usage = "`crate` takes the path at which `slimerpc-actors` is found: `crate = slime::rpc`";
    if !input.peek(Token![=]) {
        return Err(Error::new(option.span(), usage));
    }
    input.parse::<Token![=]>()?;
    let path = if input.peek(LitStr) {
        input.parse::<LitStr>()?.parse_with(Path::parse_mod_style)
    } else {
        input.call(Path::parse_mod_style)
    };
    path.map_err(|error| Error::new(error.span(), usage))
}

fn message_prefix(option: &Ident, input: ParseStream<'_>) -> Result<String> {
    let literal = string(option, input)?;
    if syn::parse_str::<Ident>(&literal.value()).is_err() || literal.value().starts_with("r#") {
        return Err(Error::new(
            literal.span(),
            "names of messages start with the prefix, so it must be an identifier, such as \"Calc\"",
        ));
    }
    Ok(literal.value())
}
