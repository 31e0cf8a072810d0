//! Services in a crate that has the actors through another only.

use std::sync::Arc;

use slime::rpc::{Share, Stream};

/// Has a method of each kind.
pub struct Everything;

impl Share for Everything {
    type Shared = u8;
    fn share(&self) -> Arc<u8> {
        Arc::new(7)
    }
}

#[slime::service(crate = slime::rpc)]
impl Everything {
    /// The sum of `a` and `b`.
    #[slime::method]
    pub fn add(&mut self, a: i64, b: i64) -> i64 {
        a + b
    }

    #[slime::method]
    async fn later(&self, text: String) -> Result<String, std::fmt::Error> {
        Ok(text)
    }

    #[slime::method(raw)]
    fn bytes(&self, request: &[u8]) -> Vec<u8> {
        request.to_vec()
    }

    #[slime::method(raw, inplace)]
    fn same(&self, bytes: &mut [u8]) -> usize {
        bytes.len()
    }

    #[slime::method(oneway)]
    fn log(&self) {}

    #[slime::method(stream)]
    fn items(&self, to: u8) -> impl Stream<Item = u8> {
        Once(Some(to))
    }

    #[slime::method(parallel)]
    fn shared(shared: &u8) -> u8 {
        *shared
    }
}

/// Known without its implementation.
#[slime::service(name = "greeter", crate = "::slime::rpc")]
pub trait Greeter {
    /// Greets.
    #[slime::method]
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
    use slime::rpc::PeerAgent;

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
