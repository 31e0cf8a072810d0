//! Names that generated code, keywords and the prelude have, too.
#![allow(clippy::all)]
#![deny(warnings, missing_docs, unreachable_pub, private_interfaces)]

use std::marker::PhantomData;

use slimerpc_actors::{Reply, Service, service};

mod geometry {
    #[derive(serde::Serialize, serde::Deserialize)]
    pub(crate) struct Point;
}

#[allow(non_camel_case_types)]
struct r#type;

#[allow(non_camel_case_types)]
#[service]
impl r#type {
    /// A proxy has none of this name, and neither has anything else that callers see.
    #[method]
    fn call(&self) {}

    #[method(raw)]
    fn r#loop(&self, r#in: &[u8]) -> Vec<u8> {
        r#in.to_vec()
    }

    /// What is meant lies elsewhere, whatever the message is called.
    #[method]
    fn point(&self, at: geometry::Point) -> geometry::Point {
        at
    }

    #[method]
    fn self_by_type(self: &Self, self_: u8) -> u8 {
        self_
    }

    #[method]
    fn self_by_mutable_type(self: &mut Self) {}

    #[method]
    async fn self_by_name(self: &r#type) {}

    #[method]
    async fn self_for_a_while(self: &'_ mut r#type) {}

    #[cfg_attr(all(), doc = "Documented in all builds.")]
    #[cfg_attr(any(), deprecated)]
    #[method]
    fn conditions(&self) {}

    /// Its lifetime is its own.
    #[method]
    fn lifetimes(&self, of: PhantomData<for<'a> fn(&'a u8) -> &'a u8>) {
        let _ = of;
    }

    #[method]
    #[allow(clippy::too_many_arguments)]
    fn locals(
        &self,
        ctx: u8,
        state: u8,
        request: u8,
        method: u8,
        message: u8,
        shared: u8,
        lent: u8,
        item: u8,
        error: u8,
        formatter: u8,
        arguments: u8,
        caller: u8,
    ) -> u8 {
        ctx + state
            + request
            + method
            + message
            + shared
            + lent
            + item
            + error
            + formatter
            + arguments
            + caller
    }
}

/// Nothing is in scope here but what is named.
#[no_implicit_prelude]
mod bare {
    use ::slimerpc_actors::{Stream, service};

    pub(super) struct Bare;

    /// Statics, which no local can hide.
    #[allow(non_upper_case_globals, dead_code, missing_docs)]
    mod statics {
        pub(crate) static state: u8 = 0;
        pub(crate) static method: u8 = 0;
        pub(crate) static message: u8 = 0;
        pub(crate) static lent: u8 = 0;
        pub(crate) static seen: u8 = 0;
        pub(crate) static item: u8 = 0;
        pub(crate) static error: u8 = 0;
        pub(crate) static room: u8 = 0;
        pub(crate) static caller: u8 = 0;
        pub(crate) static formatter: u8 = 0;
    }
    #[allow(unused_imports)]
    use self::statics::*;

    #[service]
    impl Bare {
        #[method]
        fn add(&mut self, a: u8, b: u8) -> ::std::result::Result<u8, ::std::string::String> {
            ::std::result::Result::Ok(a + b)
        }

        #[method]
        async fn nothing(&self) {}

        #[method(raw)]
        fn bytes(&self, request: &[u8]) -> ::std::vec::Vec<u8> {
            request.to_vec()
        }

        #[method(raw, inplace)]
        async fn same(&self, bytes: &mut [u8]) -> usize {
            bytes.len()
        }

        #[method(oneway)]
        fn log(&self, text: ::std::string::String) {
            let _ = text;
        }

        #[method(stream)]
        fn items(&self) -> impl Stream<Item = u8> {
            ::futures_util::stream::iter([1])
        }

        #[method(parallel)]
        fn seen(shared: &u8) -> u8 {
            *shared
        }
    }

    impl ::slimerpc_actors::Share for Bare {
        type Shared = u8;
        fn share(&self) -> ::std::sync::Arc<u8> {
            ::std::sync::Arc::new(1)
        }
    }
}

fn client(client: &typeClient) {
    let _: Reply<()> = client.call();
    let _: Reply<Vec<u8>> = client.r#loop(b"");
    let _: Reply<geometry::Point> = client.point(geometry::Point);
    let _: Reply<u8> = client.self_by_type(1);
}

fn main() {
    let _ = client;
    assert_eq!(<r#type>::NAME, "type");
    assert_eq!(<bare::Bare>::METHODS.len(), 7);
    let _ = r#type.point(geometry::Point);
}
