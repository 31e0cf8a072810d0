//! Memory that peers read and write without asking, what it is for, and what goes wrong. Over
//! shared memory, or the device that `SLIME_TEST_DEVICE` names.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use slimerpc_actors::{
    AgentError, BufferError, Builder, Limits, PeerAgent, RdmaBuffer, Rights, Timeouts, service,
};
use support::{unique, until};
use tokio::time::timeout;

const MIB: usize = 1 << 20;
const LONG: Duration = Duration::from_secs(120);

#[derive(Default)]
struct Board {
    offered: Option<RdmaBuffer>,
}

#[service]
impl Board {
    #[method]
    fn offer(&mut self, buffer: RdmaBuffer) {
        self.offered = Some(buffer);
    }

    #[method]
    fn offered(&mut self) -> Option<RdmaBuffer> {
        self.offered.clone()
    }
}

fn builder(role: &str) -> Builder {
    support::agent(unique(role))
        .timeouts(Timeouts::default().connect_timeout(Duration::from_secs(3)))
}

async fn agents() -> (PeerAgent, PeerAgent) {
    let owner = builder("owner").start().await.unwrap();
    let user = builder("user").start().await.unwrap();
    (owner, user)
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len)
        .map(|at| (at * 7 + at / 251 + seed) as u8)
        .collect()
}

/// A handle with other numbers in it than its owner gave, as a peer could make one.
fn forged(handle: &RdmaBuffer, change: impl FnOnce(&mut serde_json::Value)) -> RdmaBuffer {
    let mut value = serde_json::to_value(handle).unwrap();
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

async fn nothing_is_lent(agent: &PeerAgent) {
    until("nothing is lent", || agent.memory().lent == 0).await;
}

#[actix::test]
async fn a_handle_travels_in_a_message_and_its_holder_reads_and_writes() {
    let (owner, user) = agents().await;
    owner.serve(Board::default()).await.unwrap();
    let buffer = owner.allocate(10 * MIB, Rights::ReadWrite).unwrap();
    let bytes = pattern(10 * MIB, 1);
    buffer.write(0, &bytes).unwrap();
    let board = user.proxy::<Board>(owner.alias()).await.unwrap();
    board.offer(buffer.handle()).await.unwrap();
    let handle = board.offered().await.unwrap().unwrap();
    assert_eq!(handle, buffer.handle());

    let remote = user.attach(&handle).await.unwrap();
    let mut read = vec![0; 10 * MIB];
    remote.read_at(0, &mut read).await.unwrap();
    assert!(read == bytes, "every byte is where it was");
    assert!(remote.read(5, 9 * MIB).await.unwrap()[..] == bytes[5..9 * MIB + 5]);

    let news = pattern(9 * MIB, 2);
    remote.write_at(100, &news).await.unwrap();
    buffer.read(0, &mut read).unwrap();
    assert!(read[..100] == bytes[..100] && read[100..9 * MIB + 100] == news[..]);
    assert!(read[9 * MIB + 100..] == bytes[9 * MIB + 100..]);

    remote.read_at(3, &mut []).await.unwrap();
    remote.write_at(10 * MIB as u64, &[]).await.unwrap();
    drop(buffer);
    nothing_is_lent(&owner).await;
    nothing_is_lent(&user).await;
}

#[actix::test]
async fn scattered_ranges_are_one_transfer_in_their_order() {
    let (owner, user) = agents().await;
    let buffer = owner.allocate(MIB, Rights::ReadWrite).unwrap();
    let bytes = pattern(MIB, 3);
    buffer.write(0, &bytes).unwrap();
    let remote = user.attach(&buffer.handle()).await.unwrap();

    let (mut tail, mut head, mut middle) = ([0; 10], vec![0; 300_000], [0; 1]);
    let mut parts: [(u64, &mut [u8]); 4] = [
        (MIB as u64 - 10, &mut tail),
        (0, &mut head),
        (77, &mut []),
        (500_000, &mut middle),
    ];
    remote.read_scattered(&mut parts).await.unwrap();
    assert_eq!(tail, bytes[MIB - 10..]);
    assert!(head == bytes[..300_000]);
    assert_eq!(middle, bytes[500_000..500_001]);

    let writes: [(u64, &[u8]); 2] = [(9, b"nine"), (MIB as u64 - 4, b"last")];
    remote.write_scattered(&writes).await.unwrap();
    let mut read = [0; 4];
    buffer.read(9, &mut read).unwrap();
    assert_eq!(&read, b"nine");
    buffer.read(MIB - 4, &mut read).unwrap();
    assert_eq!(&read, b"last");
}

#[actix::test]
async fn ones_own_buffer_is_used_past_the_fabric_and_under_the_same_rules() {
    let (owner, _) = agents().await;
    let buffer = owner.allocate(100, Rights::Write).unwrap();
    let handle = buffer.handle();
    let own = owner.attach(&handle).await.unwrap();
    own.write_at(90, b"0123456789").await.unwrap();
    let mut read = [0; 10];
    buffer.read(90, &mut read).unwrap();
    assert_eq!(&read, b"0123456789");
    let error = own.read_at(0, &mut read).await.unwrap_err();
    assert!(matches!(error, BufferError::NotAllowed { .. }), "{error}");
    let error = own.write_at(91, &read).await.unwrap_err();
    assert!(matches!(error, BufferError::OutOfRange { .. }), "{error}");
    buffer.revoke();
    let error = own.write_at(0, &read).await.unwrap_err();
    assert!(matches!(error, BufferError::Revoked { .. }), "{error}");
}

#[actix::test]
async fn memory_is_lent_for_a_scope_and_what_peers_wrote_is_in_it_afterwards() {
    let (owner, user) = agents().await;
    let mut bytes = *b"before";
    let handle = owner
        .lend(&mut bytes, Rights::ReadWrite, async |buffer| {
            let remote = user.attach(&buffer).await.unwrap();
            assert_eq!(remote.read(0, 6).await.unwrap()[..], b"before"[..]);
            remote.write_at(0, b"after ").await.unwrap();
            buffer
        })
        .await
        .unwrap();
    assert_eq!(&bytes, b"after ");
    let remote = user.attach(&handle).await.unwrap();
    let error = remote.write_at(0, b"late").await.unwrap_err();
    assert!(matches!(error, BufferError::Revoked { .. }), "{error}");

    let mut read_only = *b"kept";
    let lent = owner.lend(&mut read_only, Rights::Read, async |buffer| {
        let remote = user.attach(&buffer).await.unwrap();
        remote.write_at(0, b"no").await.unwrap_err()
    });
    let error = lent.await.unwrap();
    assert!(matches!(error, BufferError::NotAllowed { .. }), "{error}");
    assert_eq!(&read_only, b"kept");
}

#[actix::test]
async fn input_1_a_forged_handle_reaches_nothing_that_was_not_offered() {
    let (owner, user) = agents().await;
    let offered = owner.allocate(4096, Rights::Read).unwrap();
    let write_only = owner.allocate(4096, Rights::Write).unwrap();
    let secret = owner.allocate(4096, Rights::Read).unwrap();
    secret.write(0, &[7; 4096]).unwrap();
    let handle = offered.handle();
    let place = |value: &mut serde_json::Value, field: &str, add: i64| {
        let field = &mut value["places"][0][field];
        *field = (field.as_u64().unwrap().wrapping_add_signed(add)).into();
    };
    let longer = forged(&handle, |value| value["len"] = (1_u64 << 40).into());
    let moved = forged(&handle, |value| place(value, "addr", 4000));
    let before = forged(&handle, |value| place(value, "addr", -8));
    let other_key = forged(&handle, |value| place(value, "rkey", 1 << 20));
    let more_rights = forged(&handle, |value| value["rights"] = "ReadWrite".into());
    let wraps = forged(&handle, |value| {
        value["places"][0]["addr"] = (u64::MAX - 10).into();
    });
    let read_rights = forged(&write_only.handle(), |value| {
        value["rights"] = "Read".into()
    });
    let mut room = [0; 200];
    for (forgery, offset) in [
        (&longer, 4000),
        (&longer, 1 << 39),
        (&moved, 0),
        (&before, 0),
        (&other_key, 0),
        (&wraps, 0),
        (&read_rights, 0),
    ] {
        let remote = user.attach(forgery).await.unwrap();
        let read = timeout(LONG, remote.read_at(offset, &mut room)).await;
        let error = read.unwrap().unwrap_err();
        assert!(
            matches!(error, BufferError::Revoked { .. }),
            "{forgery:?}: {error}"
        );
        assert_eq!(room, [0; 200], "nothing was read");
    }
    let remote = user.attach(&more_rights).await.unwrap();
    let error = remote.write_at(0, &[9; 100]).await.unwrap_err();
    assert!(matches!(error, BufferError::Revoked { .. }), "{error}");
    let mut bytes = [1; 4096];
    offered.read(0, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 4096], "nothing was written");

    // Who is honest is served all the same.
    let remote = user.attach(&handle).await.unwrap();
    remote.read_at(0, &mut room).await.unwrap();
    for nothing in [
        forged(&handle, |value| value["places"] = serde_json::json!([])),
        forged(&handle, |value| value["owner"] = "buffers:nobody".into()),
    ] {
        let attached = timeout(LONG, user.attach(&nothing)).await.unwrap();
        let error = attached.unwrap_err();
        let is_typed = matches!(
            error,
            BufferError::Revoked { .. } | BufferError::OwnerGone { .. }
        );
        assert!(is_typed, "{error}");
    }
}

#[actix::test]
async fn a_refused_transfer_does_not_disturb_those_of_others() {
    let (owner, user) = agents().await;
    let good = owner.allocate(8 * MIB, Rights::Read).unwrap();
    let bytes = pattern(8 * MIB, 5);
    good.write(0, &bytes).unwrap();
    let good = user
        .attach(&good.handle())
        .await
        .map(|remote| (remote, good));
    let (remote, _good) = good.unwrap();
    let gone = owner.allocate(100, Rights::Read).unwrap();
    let gone_handle = gone.handle();
    gone.revoke();
    let gone = user.attach(&gone_handle).await.unwrap();
    for _ in 0..20 {
        let mut small = [0; 10];
        let (read, refused) = tokio::join!(remote.read(0, 8 * MIB), gone.read_at(0, &mut small));
        assert!(read.unwrap()[..] == bytes[..]);
        let error = refused.unwrap_err();
        assert!(matches!(error, BufferError::Revoked { .. }), "{error}");
    }
    nothing_is_lent(&user).await;
}

#[actix::test]
async fn fence_1_a_handle_of_an_earlier_life_of_its_owner_is_refused() {
    let (owner, user) = agents().await;
    let buffer = owner.allocate(4096, Rights::ReadWrite).unwrap();
    let handle = buffer.handle();
    let remote = user.attach(&handle).await.unwrap();
    remote.write_at(0, b"once").await.unwrap();
    let alias = owner.alias().to_owned();
    owner.shutdown().await.unwrap();
    let again = support::agent(alias).start().await.unwrap();
    let _other = again.allocate(4096, Rights::ReadWrite).unwrap();
    let attached = timeout(LONG, user.attach(&handle)).await.unwrap();
    let error = attached.unwrap_err();
    assert!(matches!(error, BufferError::OwnerGone { .. }), "{error}");
    let read = timeout(LONG, remote.read(0, 4)).await.unwrap();
    let error = read.unwrap_err();
    assert!(matches!(error, BufferError::OwnerGone { .. }), "{error}");
    let error = again.attach(&handle).await.unwrap_err();
    assert!(matches!(error, BufferError::OwnerGone { .. }), "{error}");
}

#[actix::test]
async fn drop_1_what_is_dropped_on_the_way_gives_its_memory_back() {
    let (owner, user) = agents().await;
    let buffer = owner.allocate(64 * MIB, Rights::ReadWrite).unwrap();
    let remote = user.attach(&buffer.handle()).await.unwrap();
    for polls in 0..40 {
        let mut read = Box::pin(remote.read(0, 16 * MIB));
        for _ in 0..polls {
            if poll_once(read.as_mut()).await {
                break;
            }
        }
        drop(read);
    }
    nothing_is_lent(&user).await;
    // In the middle of a read the owner takes it back.
    let mut reads: Vec<_> = (0..8).map(|_| Box::pin(remote.read(0, 32 * MIB))).collect();
    for read in &mut reads {
        poll_once(read.as_mut()).await;
    }
    buffer.revoke();
    for read in reads {
        match timeout(LONG, read).await.unwrap() {
            Ok(bytes) => assert_eq!(bytes.len(), 32 * MIB),
            Err(error) => assert!(matches!(error, BufferError::Revoked { .. }), "{error}"),
        }
    }
    nothing_is_lent(&user).await;
    nothing_is_lent(&owner).await;
}

/// Polls once. Says whether it was ready.
async fn poll_once<F: Future>(mut future: std::pin::Pin<&mut F>) -> bool {
    std::future::poll_fn(|context| std::task::Poll::Ready(future.as_mut().poll(context).is_ready()))
        .await
}

#[actix::test]
async fn memory_that_is_spent_is_a_typed_error() {
    let small = builder("small").limits(
        Limits::default()
            .max_payload(4 * MIB)
            .payload_memory(8 * MIB),
    );
    let owner = small.start().await.unwrap();
    let error = owner.allocate(4 * MIB + 1, Rights::Read).unwrap_err();
    assert!(matches!(error, BufferError::Memory(_)), "{error}");
    let held = [(); 2].map(|()| owner.allocate(4 * MIB, Rights::Read).unwrap());
    let error = owner.allocate(1, Rights::Read).unwrap_err();
    assert!(matches!(error, BufferError::Memory(_)), "{error}");
    drop(held);
    assert!(owner.allocate(1, Rights::Read).is_ok());
    assert!(owner.allocate(0, Rights::Read).unwrap().is_empty());
}

#[actix::test]
async fn an_agent_that_has_left_reaches_nothing_more() {
    let (owner, user) = agents().await;
    let buffer = owner.allocate(100, Rights::Read).unwrap();
    let remote = user.attach(&buffer.handle()).await.unwrap();
    user.shutdown().await.unwrap();
    let error = timeout(LONG, remote.read(0, 1)).await.unwrap().unwrap_err();
    assert!(
        matches!(error, BufferError::Agent(AgentError::ShutDown)),
        "{error}"
    );
}
