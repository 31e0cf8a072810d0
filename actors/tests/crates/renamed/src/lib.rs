//! Services in a crate that has the actors under another name.

use std::sync::Arc;

use company_rpc::{Share, Stream};

/// Has a method of each kind.
pub struct Everything;

impl Share for Everything {
    type Shared = u8;
    fn share(&self) -> Arc<u8> {
        Arc::new(7)
    }
}

#[company_rpc::service]
impl Everything {
    /// The sum of `a` and `b`.
    #[company_rpc::method]
    pub fn add(&mut self, a: i64, b: i64) -> i64 {
        a + b
    }

    #[company_rpc::method]
    async fn later(&self, text: String) -> Result<String, std::fmt::Error> {
        Ok(text)
    }

    #[company_rpc::method(raw)]
    fn bytes(&self, request: &[u8]) -> Vec<u8> {
        request.to_vec()
    }

    #[company_rpc::method(raw, inplace)]
    fn same(&self, bytes: &mut [u8]) -> usize {
        bytes.len()
    }

    #[company_rpc::method(oneway)]
    fn log(&self) {}

    #[company_rpc::method(stream)]
    fn items(&self, to: u8) -> impl Stream<Item = u8> {
        Once(Some(to))
    }

    #[company_rpc::method(parallel)]
    fn shared(shared: &u8) -> u8 {
        *shared
    }
}

/// Known without its implementation.
#[company_rpc::service(name = "greeter")]
pub trait Greeter {
    /// Greets.
    #[company_rpc::method]
    fn greet(&self, name: String) -> String;
}

/// A stream of one item.
struct Once(Option<u8>);

impl Stream for Once {
    type Item = u8;
    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<u8>> {
        std::task::Poll::Ready(self.0.take())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use company_rpc::PeerAgent;

    use super::*;

    #[actix::test]
    async fn a_service_is_served_and_called() {
        let agent = PeerAgent::builder().start().await.unwrap();
        agent.serve(Everything).await.unwrap();
        let everything = agent.proxy::<Everything>(agent.alias()).await.unwrap();
        assert_eq!(everything.add(1, 2).await, Ok(3));
        assert_eq!(everything.send(Add { a: 1, b: 2 }).await, Ok(3));
        assert_eq!(everything.later("x".to_owned()).await.as_deref(), Ok("x"));
        assert_eq!(everything.bytes(b"x").await.as_deref(), Ok(&b"x"[..]));
        assert_eq!(everything.same(b"x").await.as_deref(), Ok(&b"x"[..]));
        assert_eq!(everything.log().await, Ok(()));
        assert_eq!(everything.shared().await, Ok(7));
    }
}
