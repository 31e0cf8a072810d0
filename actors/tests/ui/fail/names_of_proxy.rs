//! A call of these through a proxy would be one of the proxy's own methods.
#![allow(unused_variables)]

use slimerpc_actors::service;

struct Own;

#[service(prefix = "Own")]
impl Own {
    #[method]
    fn name(&self) -> String {
        String::new()
    }

    #[method]
    fn is_local(&self) -> bool {
        true
    }

    #[method]
    fn peer(&self) {}

    #[method]
    fn watch(&self) {}

    #[method]
    fn tell(&self, what: u8) {}

    #[method]
    fn stream(&self) {}

    #[method]
    fn channel(&self) {}

    #[method(raw)]
    fn with_timeout(&self, request: &[u8]) -> Vec<u8> {
        request.to_vec()
    }

    #[method]
    fn r#blocking(&self) {}
}

#[service(prefix = "Traits")]
trait OfTraits {
    #[method]
    fn into(&self) -> u8;

    #[method]
    fn to_owned(&self) -> u8;

    #[method]
    fn fmt(&self) -> u8;

    #[method]
    fn type_id(&self) -> u64;

    #[method]
    fn borrow(&self, book: u64) -> bool;
}

fn main() {}
