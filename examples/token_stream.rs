//! A model runner that sends tokens as it makes them, to a reader who stops when it has enough.
//!
//!     cargo run --release --example token_stream

use std::io::Write;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use slimerpc_actors::{PeerAgent, Stream, service};

const TEXT: &str = "the actor runs one handler at a time and its mailbox is a ring of slots that its peer writes into";

struct Model {
    /// Words that may follow each other.
    words: Vec<&'static str>,
    made: u32,
}

#[service]
impl Model {
    /// Makes a token every 20 ms for as long as somebody asks. It borrows the model: others wait
    /// until it has ended.
    #[method(stream)]
    fn generate(&mut self, prompt: String) -> impl Stream<Item = String> {
        let seen = self.words.iter().position(|word| *word == prompt);
        let from = seen.map_or(0, |at| at + 1);
        stream::iter(from..).then(move |n| {
            self.made += 1;
            let token = self.words[n % self.words.len()].to_owned();
            async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                token
            }
        })
    }

    #[method]
    fn made(&mut self) -> u32 {
        self.made
    }
}

#[actix::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let worker = PeerAgent::builder().alias("worker:0").start().await?;
    let words = TEXT.split(' ').collect();
    worker.serve(Model { words, made: 0 }).await?;

    let driver = PeerAgent::builder().alias("driver:0").start().await?;
    let model = driver.proxy::<Model>("worker:0").await?;

    let started = Instant::now();
    let mut tokens = model.generate("runs".to_owned());
    let mut read = 0;
    print!("runs");
    while let Some(token) = tokens.next().await {
        let token = token?;
        print!(" {token}");
        std::io::stdout().flush()?;
        read += 1;
        if token == "ring" {
            break;
        }
    }
    println!(
        " ..\nthe first of {read} tokens came long before the last, after {:?}",
        started.elapsed()
    );
    drop(tokens); // The model stops here, a few tokens ahead at the most.
    println!("it has made {} in all", model.made().await?);
    Ok(())
}
