//! The consoles that are open. When there are as many as may be, an address that has more of them
//! than another gives way to it: nobody keeps others out by opening all.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

/// Most consoles that are open at once.
pub(super) const MOST_CONSOLES: usize = 64;

/// Who is in, oldest first.
#[derive(Default)]
pub(super) struct Seats(Vec<Taken>);

struct Taken {
    address: IpAddr,
    seat: Weak<AtomicBool>,
}

/// The place of one console, which is free again once this is dropped.
pub(super) struct Seat(Arc<AtomicBool>);

impl Seat {
    /// Whether it was given to another console.
    pub(super) fn is_lost(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Seats {
    /// Lets in a console from this address. `None` if there is no room, and no other address has
    /// at least two consoles more.
    pub(super) fn take(&mut self, address: IpAddr) -> Option<Seat> {
        self.0.retain(|taken| taken.seat.strong_count() > 0);
        if self.0.len() >= MOST_CONSOLES {
            self.make_room(address)?;
        }
        let seat = Arc::new(AtomicBool::new(false));
        self.0.push(Taken {
            address,
            seat: Arc::downgrade(&seat),
        });
        Some(Seat(seat))
    }

    /// Takes the oldest seat of the address that has most.
    fn make_room(&mut self, newcomer: IpAddr) -> Option<()> {
        let mut shares = HashMap::<IpAddr, usize>::new();
        for taken in &self.0 {
            *shares.entry(taken.address).or_default() += 1;
        }
        let own = shares.get(&newcomer).copied().unwrap_or_default();
        let (crowd, most) = shares.into_iter().max_by_key(|(_, share)| *share)?;
        // With one more only, the two would take it from each other for ever.
        if most < own + 2 {
            return None;
        }
        let oldest = self.0.iter().position(|taken| taken.address == crowd)?;
        if let Some(seat) = self.0.remove(oldest).seat.upgrade() {
            seat.store(true, Ordering::Relaxed);
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, number])
    }

    #[test]
    fn who_has_opened_all_gives_way_to_others_down_to_an_equal_share() {
        let mut seats = Seats::default();
        let first: Vec<_> = (0..MOST_CONSOLES)
            .map(|_| seats.take(address(1)).expect("there is room"))
            .collect();
        assert!(seats.take(address(1)).is_none());
        assert!(first.iter().all(|seat| !seat.is_lost()));
        let second: Vec<_> = std::iter::from_fn(|| seats.take(address(2))).collect();
        assert_eq!(second.len(), MOST_CONSOLES / 2);
        assert!(second.iter().all(|seat| !seat.is_lost()));
        let is_lost: Vec<_> = first.iter().map(Seat::is_lost).collect();
        let (oldest, newest) = is_lost.split_at(MOST_CONSOLES / 2);
        assert!(oldest.iter().all(|lost| *lost) && newest.iter().all(|lost| !lost));
        assert!(seats.take(address(1)).is_none(), "they do not alternate");
    }

    #[test]
    fn a_seat_is_free_again_once_its_console_is_closed() {
        let mut seats = Seats::default();
        for _ in 0..3 * MOST_CONSOLES {
            assert!(seats.take(address(1)).is_some());
        }
        let all: Vec<_> = (0..MOST_CONSOLES)
            .map(|number| seats.take(address(number as u8)).expect("there is room"))
            .collect();
        assert!(seats.take(address(200)).is_none(), "all have one");
        drop(all);
        assert!(seats.take(address(200)).is_some());
    }
}
