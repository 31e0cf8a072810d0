//! Many worlds, or the one that failed.

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use super::world::{Seen, World};

/// Runs the world of this seed alone, and says what happens in it.
const SEED: &str = "SLIME_SIM_SEED";
/// How many worlds are run.
const SEEDS: &str = "SLIME_SIM_SEEDS";
const DEFAULT: u64 = 10_000;

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable} is `{text}`, and a number was expected")))
}

fn run(seed: u64, is_loud: bool) -> Seen {
    let run = catch_unwind(AssertUnwindSafe(|| World::new(seed, is_loud).run()));
    run.unwrap_or_else(|panic| {
        eprintln!(
            "seed {seed} fails; {SEED}={seed} cargo test -p slimerpc --lib simulation says how"
        );
        resume_unwind(panic)
    })
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.events += other.events;
        self.agents += other.agents;
        self.lives += other.lives;
        self.sessions += other.sessions;
        self.calls += other.calls;
        self.answered += other.answered;
        self.late += other.late;
        self.items += other.items;
    }
}

#[test]
fn slot_1_slot_2_ring_1_call_1_call_2_order_1_fence_1_hold_in_every_world() {
    if let Some(seed) = number(SEED) {
        println!("{:?}", run(seed, true));
        return;
    }
    let seeds = number(SEEDS).unwrap_or(DEFAULT);
    let started = Instant::now();
    let (next, total) = (AtomicU64::new(0), Mutex::new(Seen::default()));
    let work = || {
        let mut seen = Seen::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return total.lock().expect("nobody panics with it").add(seen);
            }
            seen.add(run(seed, false));
        }
    };
    thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let seen = total.into_inner().expect("nobody panics with it");
    println!("{seeds} worlds in {:.1?}: {seen:?}", started.elapsed());
    // What was not tried was not tested.
    let least = seeds as usize;
    assert!(
        seen.lives > 3 * least && seen.sessions > 3 * least,
        "{seen:?}"
    );
    assert!(
        seen.answered > 10 * least && seen.late > seeds / 2 && seen.items > least,
        "{seen:?}"
    );
}

#[test]
fn a_seed_makes_the_same_world_again() {
    for seed in [1, 77, 4242] {
        let [first, second] = [run(seed, false), run(seed, false)];
        assert_eq!(format!("{first:?}"), format!("{second:?}"));
    }
}
