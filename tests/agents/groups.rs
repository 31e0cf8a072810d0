//! Several services called together, over shared memory.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};
use slimerpc_actors::{
    Builder, Group, GroupError, MemberError, PeerAgent, Proxy, RpcError, service,
};
use support::{Tally, unique};

const LONG: Duration = Duration::from_secs(120);

/// Counts how often it is encoded.
#[derive(Deserialize)]
struct Counted(u64);

static ENCODED: AtomicUsize = AtomicUsize::new(0);

impl Serialize for Counted {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        ENCODED.fetch_add(1, Ordering::SeqCst);
        self.0.serialize(serializer)
    }
}

#[derive(Default)]
struct Member {
    rank: u64,
    /// Handlers of `slow_unless` that have something to drop.
    begun: Tally,
    dropped: Tally,
}

#[service]
impl Member {
    #[method]
    fn rank(&mut self, by: Counted) -> u64 {
        self.rank * by.0
    }

    #[method]
    fn sum(&mut self, values: Vec<u64>) -> u64 {
        values.iter().sum()
    }

    #[method]
    fn fails_at(&mut self, rank: u64) -> Result<u64, String> {
        if self.rank == rank {
            Err(format!("at {rank}"))
        } else {
            Ok(self.rank)
        }
    }

    #[method]
    async fn slow_unless(&mut self, rank: u64) -> Result<u64, String> {
        if self.rank == rank {
            // The others have begun.
            self.begun.reaches(2).await;
            return Err("before the others".into());
        }
        let _guard = self.dropped.on_drop();
        self.begun.up();
        tokio::time::sleep(Duration::from_secs(3600)).await;
        Ok(0)
    }

    #[method(raw)]
    fn echo(&mut self, request: &[u8]) -> Vec<u8> {
        request.to_vec()
    }
}

fn agent() -> Builder {
    PeerAgent::builder().alias(unique("groups"))
}

struct Crew {
    agents: Vec<PeerAgent>,
    driver: PeerAgent,
    group: Group<Member>,
    dropped: Tally,
}

async fn crew(size: u64) -> Crew {
    let driver = agent().start().await.unwrap();
    let (begun, dropped) = (Tally::default(), Tally::default());
    let (mut agents, mut members) = (Vec::new(), Vec::new());
    for rank in 0..size {
        let worker = agent().start().await.unwrap();
        let state = Member {
            rank,
            begun: begun.clone(),
            dropped: dropped.clone(),
        };
        worker.serve(state).await.unwrap();
        members.push(driver.proxy::<Member>(worker.alias()).await.unwrap());
        agents.push(worker);
    }
    Crew {
        group: Group::new(members).unwrap(),
        agents,
        driver,
        dropped,
    }
}

#[actix::test]
async fn a_broadcast_is_encoded_once_and_gathered_in_the_order_of_ranks() {
    let crew = crew(5).await;
    let ranks = crew.group.broadcast(Rank { by: Counted(10) });
    assert_eq!(ranks.await, Ok(vec![0, 10, 20, 30, 40]));
    assert_eq!(ENCODED.load(Ordering::SeqCst), 1);
    // Beyond a slot, too.
    let values: Vec<u64> = (0..100_000).collect();
    let sums = crew.group.broadcast(Sum { values });
    assert_eq!(sums.timeout(LONG).await, Ok(vec![4_999_950_000; 5]));
}

#[actix::test]
async fn a_scatter_gives_each_its_own_and_counts_them_first() {
    let crew = crew(3).await;
    let to_each = (1..=3).map(|rank| Sum {
        values: vec![rank; 2],
    });
    assert_eq!(
        crew.group.scatter(to_each).unwrap().await,
        Ok(vec![2, 4, 6])
    );
    for messages in [0, 2, 4] {
        let to_each = (0..messages).map(|_| Sum { values: Vec::new() });
        let error = crew.group.scatter(to_each).unwrap_err();
        assert_eq!(
            error,
            GroupError::Count {
                messages,
                members: 3
            }
        );
    }
    let echoes = crew
        .group
        .each(|rank, member| member.echo(&[rank as u8; 3]));
    assert_eq!(echoes.await, Ok(vec![vec![0; 3], vec![1; 3], vec![2; 3]]));
}

#[actix::test]
async fn the_first_error_ends_the_others_or_each_result_is_seen() {
    let crew = crew(3).await;
    let settled = crew.group.broadcast(FailsAt { rank: 1 }).settled().await;
    assert_eq!((&settled[0], &settled[2]), (&Ok(0), &Ok(2)));
    let error = settled[1].as_ref().unwrap_err();
    assert_eq!((error.rank, &*error.peer), (1, crew.agents[1].alias()));
    assert!(error.to_string().contains("at 1"), "{error}");

    let error = crew
        .group
        .broadcast(SlowUnless { rank: 2 })
        .await
        .unwrap_err();
    assert_eq!(error.rank, 2);
    crew.dropped.reaches(2).await;
}

#[actix::test]
async fn one_deadline_is_for_all_and_dead_members_are_errors_of_their_own() {
    let crew = crew(3).await;
    let late = crew.group.broadcast(SlowUnless { rank: 9 });
    let late = late.timeout(Duration::from_millis(20)).settled().await;
    assert!(late.iter().all(|result| matches!(
        result,
        Err(MemberError {
            error: RpcError::Timeout { .. },
            ..
        })
    )));
    crew.agents[1].shutdown().await.unwrap();
    let timely = crew.group.with_timeout(LONG);
    let settled = timely.broadcast(FailsAt { rank: 9 }).settled().await;
    assert_eq!((&settled[0], &settled[2]), (&Ok(0), &Ok(2)));
    let error = settled[1].as_ref().unwrap_err();
    assert!(matches!(error.error, RpcError::PeerLost { .. }), "{error}");
}

#[actix::test]
async fn membership_changes_are_explicit() {
    let mut crew = crew(2).await;
    let members: Vec<Proxy<Member>> = crew.group.members().to_vec();
    assert_eq!(Group::<Member>::new([]).unwrap_err(), GroupError::Empty);
    let twice = [members[0].clone(), members[1].clone(), members[0].clone()];
    let error = Group::new(twice).unwrap_err();
    assert!(
        matches!(&error, GroupError::Duplicate { rank: 0, .. }),
        "{error}"
    );

    let late = agent().start().await.unwrap();
    let state = Member {
        rank: 7,
        ..Member::default()
    };
    late.serve(state).await.unwrap();
    let late: Proxy<Member> = crew.driver.proxy(late.alias()).await.unwrap();
    crew.group.add(late.clone()).unwrap();
    assert!(crew.group.add(late).is_err());
    let ranks = |group: &Group<Member>| group.broadcast(FailsAt { rank: 99 });
    assert_eq!(ranks(&crew.group).await, Ok(vec![0, 1, 7]));
    assert_eq!(crew.group.remove(0).unwrap().peer(), members[0].peer());
    assert_eq!(ranks(&crew.group).await, Ok(vec![1, 7]));
    assert!(crew.group.replace(1, members[0].clone()).is_some());
    assert_eq!(ranks(&crew.group).await, Ok(vec![1, 0]));
    assert!(crew.group.remove(5).is_none());
    crew.group.remove(0).unwrap();
    assert!(crew.group.remove(0).is_none(), "the last one stays");
}
