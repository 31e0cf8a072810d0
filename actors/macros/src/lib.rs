//! `#[service]` and `#[method]` for `slimerpc-actors`, which re-exports them.
//!
//! Layout, in the order in which an item passes through:
//!
//! - `options`: the options of `#[service(..)]` and `#[method(..)]`;
//! - `parse`, with `impl_form` and `trait_form`: turns the item into a `model`, and the item as it
//!   is returned;
//! - `signature`: the rules for one method; each violation is reported, at the token that causes
//!   it;
//! - `conditional`: attributes that exist in some builds only;
//! - `types`: the rules for the types of arguments and replies;
//! - `names`: the names of messages, and names that are not available;
//! - `neighbours`: the other items of the module;
//! - `expand`: generates messages, client and dispatch table from the model;
//! - `crate_path`: finds the crate that the generated code refers to.
//!
//! Everything that reaches `expand` is valid: only the steps before it report errors.

use proc_macro::TokenStream;

mod conditional;
mod crate_path;
mod errors;
mod expand;
mod impl_form;
mod model;
mod names;
mod neighbours;
mod options;
mod parse;
mod signature;
mod trait_form;
mod types;

/// Makes an `impl` or a trait a service: something that peers call.
///
/// # On an `impl`
///
/// When callers link the implementation, put it on the inherent `impl` of the type that holds the
/// state:
///
/// ```
/// use slimerpc_actors::service;
///
/// #[derive(Default)]
/// pub struct Calc {
///     calls: u64,
/// }
///
/// #[service]
/// impl Calc {
///     /// The sum of `a` and `b`.
///     #[method]
///     pub fn add(&mut self, a: i64, b: i64) -> i64 {
///         self.calls += 1;
///         a + b
///     }
///
///     #[method]
///     pub async fn load(&mut self, path: String) -> std::io::Result<String> {
///         std::future::ready(()).await; // anything that takes a while
///         std::fs::read_to_string(path)
///     }
///
///     #[method(raw)]
///     pub fn checksum(&mut self, request: &[u8]) -> [u8; 4] {
///         request.iter().map(|&byte| u32::from(byte)).sum::<u32>().to_le_bytes()
///     }
///
///     fn helper(&self) {} // no #[method]: stays as it is, nobody can call it from afar
/// }
/// ```
///
/// Beside the `impl` itself this generates, in the same scope:
///
/// - a message for every method that is not raw: `Add { a: i64, b: i64 }` and `Load { path: String
///   }`, for `calc.send(Add { a: 1, b: 2 })`. A message is as visible as its method: write `pub fn`
///   where callers in other modules shall name it, and no `pub` where the service type is private.
///   It has `Clone` and `Debug` if all arguments do;
/// - `CalcClient`, always `pub`, with a method for every `#[method]`. A `Proxy<Calc>` dereferences
///   to it: `calc.add(1, 2)` returns a `Reply<i64>`;
/// - the implementations of `Service`, `Call` and `ServedBy`, among them the dispatch table.
///
/// A type has one such block. Methods that peers do not call may stand in others, without
/// `#[service]`.
///
/// # On a trait
///
/// When caller and implementation live in different crates, put it on a trait that both know:
///
/// ```
/// # use slimerpc_actors::{PeerAgent, service};
/// #[service]
/// pub trait Calculator {
///     #[method]
///     fn add(&mut self, a: i64, b: i64) -> i64;
///     #[method]
///     async fn slow(&mut self, ms: u64) -> u64;
/// }
///
/// struct MyCalc;
///
/// impl Calculator for MyCalc {
///     fn add(&mut self, a: i64, b: i64) -> i64 {
///         a + b
///     }
///     async fn slow(&mut self, ms: u64) -> u64 {
///         ms
///     }
/// }
///
/// # async fn example(agent: PeerAgent) -> Result<(), slimerpc_actors::AgentError> {
/// agent.serve(MyCalc).as_service::<dyn Calculator>().await?; // the worker
/// // The driver, which does not know MyCalc.
/// let calc = agent.proxy::<dyn Calculator>("worker:0").await?;
/// # Ok(())
/// # }
/// ```
///
/// The trait stays a trait: methods may have default bodies, and functions without `#[method]` are
/// allowed. Every function gets `where Self: Sized`, so that `dyn Calculator` exists as the name of
/// the service, and an `async fn` becomes a `fn` that returns `impl Future`; implement it with
/// `async fn` all the same. What is generated is as visible as the trait.
///
/// # Options
///
/// - `#[service(name = "calc.v1")]`: the name of the service for peers; by default that of the type
///   or trait.
/// - `#[service(prefix = "Calc")]`: messages are called `CalcAdd`, not `Add`, for two services in
///   one module.
/// - `#[service(codec = "pickle")]`: typed payloads are pickles between native agents, too, as they
///   always are to and from DLSlime peers. For values whose type only the pickle tells
///   (`slimerpc::wire::pickle::Value`).
/// - `#[service(crate = slime::rpc)]`: the path of `slimerpc-actors`, if another crate re-exports
///   it. If the crate that declares the service depends on it directly, under whatever name, it is
///   found without this.
///
/// # Methods
///
/// See [`macro@method`] for what a method may look like.
#[proc_macro_attribute]
pub fn service(options: TokenStream, item: TokenStream) -> TokenStream {
    let file = proc_macro::Span::call_site().local_file();
    parse::service(options.into(), item.into(), file.as_deref()).into()
}

/// Marks a function of a [`macro@service`] as callable by peers.
///
/// A method
///
/// - takes `&mut self` or `&self`. Handlers of one instance run one at a time, also across
///   `.await`, so `&mut self` needs no lock (those of parallel methods run beside them);
/// - takes owned arguments that implement serde's `Serialize` and `Deserialize`: `String`, not
///   `&str`;
/// - returns an owned value that implements both, or a `Result` of one. The `Ok` value is the
///   reply; an `Err`, which must implement `Display`, reaches the caller as `RpcError::Remote` with
///   its type and its text. What counts as a `Result` is decided by name, as macros see no types:
///   the last segment of the path is `Result` and its first parameter is the reply (`Result<T, E>`,
///   `std::io::Result<T>`). A `Result` under another name is a reply like any other;
/// - may be `async`;
/// - is not generic, and neither `const`, `unsafe` nor `extern`.
///
/// # Raw methods
///
/// `#[method(raw)]` passes bytes through without a codec: the one argument is a `&[u8]` borrowed
/// from the receive ring, the reply anything that is `AsRef<[u8]>`, or a `Result` of it. The bytes
/// are lent until it is done, also across `.await`. It has no message type; the client's method
/// takes a `&[u8]` and returns a `Reply<Vec<u8>>`. Beside it there is one with `_with` at the end
/// of its name: it takes a closure that writes the request straight into registered send memory and
/// says how many bytes.
///
/// `#[method(raw, inplace)]` spares the copy of the reply, too: the handler gets a second argument,
/// a `&mut [u8]` in registered send memory, and returns how many bytes of it are the reply. A count
/// beyond the buffer is an error. If its only argument is a `&mut [u8]`, these are the bytes of the
/// request, which become those of the reply where they stand, without any copy on this side, and no
/// more than they are.
///
/// ```
/// use slimerpc_actors::service;
///
/// struct Mirror;
///
/// #[service]
/// impl Mirror {
///     #[method(raw, inplace)]
///     fn reverse(&mut self, request: &[u8], reply: &mut [u8]) -> usize {
///         for (to, from) in reply.iter_mut().zip(request.iter().rev()) {
///             *to = *from;
///         }
///         request.len()
///     }
///
///     #[method(raw, inplace)]
///     fn double(&mut self, bytes: &mut [u8]) -> usize {
///         bytes.iter_mut().for_each(|byte| *byte = byte.wrapping_mul(2));
///         bytes.len()
///     }
/// }
/// ```
///
/// # Parallel methods
///
/// `#[method(parallel)]` runs beside the serial method that has `&mut self` and beside other
/// parallel ones, on a thread of the service's pool. It takes no `self` but a reference to what the
/// service shares, which `impl Share` names: `fn health(vitals: &Vitals) -> bool`. It may be
/// anything else as well: `async` (the future must be `Send`), `raw`, `inplace`, `oneway`.
///
/// # Methods that nobody waits for
///
/// `#[method(oneway)]` is for a method that returns nothing, or `Result<(), E>`: the client's
/// method returns a `Tell`, which completes when the transport has taken the request. What goes
/// wrong later is an event of the calling agent.
///
/// # Streams
///
/// `#[method(stream)]` gives back `impl Stream<Item = T>`, or of `Result<T, E>`, whose first error
/// ends it. The client's method returns `Items<T>`, a stream of `Result<T, RpcError>`. Items are
/// made as they are asked for; each has a slot of its own. The stream may borrow `self`: as a
/// handler that awaits it runs until it has ended or is no longer wanted, and other serial handlers
/// wait. With `#[method(stream, parallel)]` it borrows what the service shares, and runs beside
/// them.
///
/// ```
/// use futures_util::stream;
/// use slimerpc_actors::{Stream, service};
///
/// struct Rocket {
///     launches: u32,
/// }
///
/// #[service]
/// impl Rocket {
///     #[method(stream)]
///     fn count_down(&mut self, n: u32) -> impl Stream<Item = u32> {
///         self.launches += 1;
///         stream::iter((0..n).rev())
///     }
/// }
/// ```
///
/// # Errors that come back as values
///
/// If the `E` of a method's `Result<T, E>` implements `Serialize`, it travels with its text, and a
/// native caller has it back with `RpcError::returned::<E>()`.
#[proc_macro_attribute]
pub fn method(_options: TokenStream, item: TokenStream) -> TokenStream {
    parse::stray_method(item.into()).into()
}
