//! Who takes long over what it was given keeps nobody else waiting.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::sleep;

use crate::load::{Load, Mix};
use crate::outcome::{Ending, Outcome};
use crate::stage::Stage;
use crate::target::Count;

const HELD_FOR: Duration = Duration::from_secs(3);
/// More than the window of a stream.
const ITEMS: u64 = 100;
/// Replies that are held, each of which takes up a credit.
const REPLIES: u64 = 4;

pub(crate) async fn run(stage: &Stage) {
    let limits = stage.limits;
    let worker = stage.worker("worker").await;
    let (agent, target, driver) = stage.caller("driver", "worker").await;
    let load = Load::start(&driver, &target, Mix::LIGHT);
    load.answers(20, limits.anything).await;

    let holds_stream = driver.call(async |id| {
        let mut items = target.stream(Count { id, items: ITEMS });
        let first = items.next().await;
        sleep(HELD_FOR).await;
        let mut read: Vec<_> = first.into_iter().collect();
        read.extend(items.collect::<Vec<_>>().await);
        let read: Result<Vec<_>, _> = read.into_iter().collect();
        Outcome::of(read, &(0..ITEMS).map(|n| id.wrapping_add(n)).collect())
    });
    let hold_reply = async |id: u64| match target.echo(&id.to_le_bytes()).lent().await {
        Ok(bytes) => {
            sleep(HELD_FOR).await;
            Outcome::of(Ok(bytes.to_vec()), &id.to_le_bytes().to_vec())
        }
        Err(error) => Outcome::of_error(&error),
    };
    let hold_replies = (0..REPLIES).map(|_| driver.call(&hold_reply));
    let hold_replies = futures_util::future::join_all(hold_replies);
    let others_go_on = async {
        sleep(HELD_FOR / 6).await;
        let began = std::time::Instant::now();
        load.answers(100, HELD_FOR / 2).await;
        assert!(began.elapsed() < HELD_FOR / 2);
    };
    let (stream, replies, ()) = tokio::join!(holds_stream, hold_replies, others_go_on);
    assert_eq!(stream.ending, Ending::Answered);
    assert!(replies.iter().all(|reply| reply.ending == Ending::Answered));
    load.stop().await;
    stage.credits_are_back(&target).await;
    let account = stage.account();
    account.check(&[]);
    assert!(
        account
            .endings()
            .into_keys()
            .all(|ending| !ending.is_error())
    );
    agent.shutdown().await.expect("the control plane is there");
    worker.leave(limits.anything).await;
}
