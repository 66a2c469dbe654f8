//! Which streams an archiver should run, as a pure function of what all of them can see: so all come to the same answer,
//! and nobody has to lead.
//!
//! Streams stay where they are unless moving one, or a chain of them, makes the spread smaller. An assignment that no such
//! chain improves is the most even one there is, whoever can run what (an optimal semi-matching: Harvey, Ladner, Lovász,
//! Tamir 2003), and it is left alone: nothing flaps.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::capture::lease::{Board, Instance};
use crate::stream_id::StreamId;

/// The streams that `me`, one of the living instances, should run. What it runs beyond them it should give up.
///
/// A stream that keeps failing on an instance stays where it is, and goes there only where nobody else is willing. One that
/// is held by an archiver which did not announce itself stays there: `run --once` takes no part in this.
pub(super) fn share(me: &str, board: &Board) -> BTreeSet<StreamId> {
    let mut assigned = Assignment::of(board);
    let Some(me) = assigned.place_of(me) else { return BTreeSet::new() };
    assigned.place_free();
    while assigned.improve() {}
    assigned.owner.into_iter().filter(|(_, owner)| *owner == me).map(|(stream, _)| stream.clone()).collect()
}

/// Who is to have what. Instances are named by their place in the list.
struct Assignment<'a> {
    /// In the order of their names, so that all who look see the same.
    instances: Vec<&'a Instance>,
    owner: BTreeMap<&'a StreamId, usize>,
    /// Streams that nobody holds.
    free: BTreeSet<&'a StreamId>,
    load: Vec<usize>,
}

impl<'a> Assignment<'a> {
    /// Who has what now.
    fn of(board: &'a Board) -> Self {
        let mut instances: Vec<&Instance> = board.instances.iter().collect();
        instances.sort_by_key(|instance| &instance.holder);
        let all = instances.iter().flat_map(|instance| &instance.streams);
        let free = all.filter(|stream| !board.held.contains_key(*stream)).collect();
        let load = vec![0; instances.len()];
        let mut assigned = Assignment { instances, owner: BTreeMap::new(), free, load };
        for (stream, holder) in &board.held {
            if let Some(place) = assigned.place_of(holder) {
                assigned.owner.insert(stream, place);
                assigned.load[place] += 1;
            }
        }
        assigned
    }

    fn place_of(&self, holder: &str) -> Option<usize> {
        self.instances.iter().position(|instance| instance.holder == holder)
    }

    /// Gives every free stream to the least loaded of those who can run it well, else of those on whom it fails.
    fn place_free(&mut self) {
        for &stream in &self.free {
            let willing =
                (0..self.instances.len()).filter(|place| self.instances[*place].streams.contains(stream));
            let best = willing.min_by_key(|place| {
                let instance = self.instances[*place];
                (instance.failing.contains(stream), !instance.fresh, self.load[*place])
            });
            if let Some(best) = best {
                self.owner.insert(stream, best);
                self.load[best] += 1;
            }
        }
    }

    /// Moves streams along one chain that makes the spread smaller; `false` where there is none.
    fn improve(&mut self) -> bool {
        let mut fullest: Vec<usize> = (0..self.instances.len()).collect();
        fullest.sort_by_key(|place| std::cmp::Reverse(self.load[*place]));
        for from in fullest {
            if let Some(chain) = self.chain(from) {
                self.load[from] -= 1;
                if let Some((_, last)) = chain.last() {
                    self.load[*last] += 1;
                }
                self.owner.extend(chain);
                return true;
            }
        }
        false
    }

    /// The shortest chain of moves from an instance to the least loaded one that it reaches, where that has at least two
    /// streams fewer: each stream of it with its new owner.
    fn chain(&self, from: usize) -> Option<Vec<(&'a StreamId, usize)>> {
        // How each instance was reached: from whom, and with which stream.
        let mut reached: BTreeMap<usize, (usize, &'a StreamId)> = BTreeMap::new();
        let mut open = VecDeque::from([from]);
        let mut in_order = Vec::new();
        while let Some(giver) = open.pop_front() {
            let mut given: Vec<_> =
                self.owner.iter().filter(|(_, owner)| **owner == giver).map(|(s, _)| *s).collect();
            // To place a free stream elsewhere costs nothing.
            given.sort_by_key(|stream| (!self.free.contains(stream), *stream));
            for stream in given {
                for taker in (0..self.instances.len()).filter(|taker| self.takes(*taker, stream)) {
                    if taker != from && !reached.contains_key(&taker) {
                        reached.insert(taker, (giver, stream));
                        open.push_back(taker);
                        in_order.push(taker);
                    }
                }
            }
        }
        let lighter = in_order.into_iter().filter(|taker| self.load[*taker] + 2 <= self.load[from]);
        // Of equals the first, so the shortest.
        let mut taker = lighter.min_by_key(|taker| self.load[*taker])?;
        let mut chain = Vec::new();
        while taker != from {
            let (giver, stream) = reached.get(&taker)?;
            chain.push((*stream, taker));
            taker = *giver;
        }
        chain.reverse();
        Some(chain)
    }

    /// Whether a stream may be moved to an instance.
    fn takes(&self, taker: usize, stream: &StreamId) -> bool {
        let instance = self.instances[taker];
        instance.fresh && instance.streams.contains(stream) && !instance.failing.contains(stream)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::TestCaseError;

    use super::*;

    /// What a stream is to an instance.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum To {
        Unknown,
        Fails,
        Runs,
    }

    /// Archivers that decide each for itself, on what they saw last.
    #[derive(Debug, Clone)]
    struct World {
        to: Vec<Vec<To>>,
        board: Board,
        hand_overs: usize,
    }

    fn stream(n: usize) -> StreamId {
        StreamId { source: "s".to_owned(), partition: Some(n as u32) }
    }

    fn holder(n: usize) -> String {
        format!("host:{n}:x")
    }

    impl World {
        fn new(to: Vec<Vec<To>>, held: &[Option<usize>]) -> World {
            let mut world = World { to, board: Board::default(), hand_overs: 0 };
            for (s, place) in held.iter().enumerate() {
                if let Some(place) =
                    place.map(|p| p % world.to.len()).filter(|p| world.to[*p][s] != To::Unknown)
                {
                    world.board.held.insert(stream(s), holder(place));
                }
            }
            world.announce();
            world
        }

        fn announce(&mut self) {
            let of = |to: &[To], what: &dyn Fn(To) -> bool| {
                to.iter().enumerate().filter(|(_, to)| what(**to)).map(|(s, _)| stream(s)).collect()
            };
            let instance = |(n, to): (usize, &Vec<To>)| Instance {
                holder: holder(n),
                streams: of(to, &|to| to != To::Unknown),
                failing: of(to, &|to| to == To::Fails),
                fresh: true,
            };
            self.board.instances = self.to.iter().enumerate().map(instance).collect();
        }

        /// One instance acts on what it saw.
        fn act(&mut self, me: usize, seen: &Board) {
            let me = holder(me);
            let share = share(&me, seen);
            let held = &mut self.board.held;
            held.retain(|stream, owner| *owner != me || share.contains(stream));
            for stream in share {
                // The lease: what another holds can't be taken, whatever was seen.
                if let std::collections::btree_map::Entry::Vacant(free) = held.entry(stream) {
                    self.hand_overs += 1;
                    free.insert(me.clone());
                }
            }
        }

        fn everybody_acts(&mut self) {
            for me in 0..self.to.len() {
                let seen = self.board.clone();
                self.act(me, &seen);
            }
        }

        fn load(&self, me: usize) -> usize {
            self.board.held.values().filter(|owner| **owner == holder(me)).count()
        }

        fn settle(&mut self) -> Result<(), TestCaseError> {
            // A stream that is given up is taken in the same round or the next, and may make room for another.
            for _ in 0..3 * self.to.len() {
                self.everybody_acts();
            }
            let settled = self.board.clone();
            for _ in 0..3 {
                self.everybody_acts();
                prop_assert_eq!(&self.board, &settled, "it flaps");
            }
            Ok(())
        }

        fn check(&self) -> Result<(), TestCaseError> {
            for s in 0..self.to[0].len() {
                let willing = self.to.iter().any(|to| to[s] != To::Unknown);
                prop_assert_eq!(self.board.held.contains_key(&stream(s)), willing, "stream {}", s);
            }
            for (a, to_a) in self.to.iter().enumerate() {
                let alike = |(_, to_b): &(usize, &Vec<To>)| *to_b == to_a && !to_a.contains(&To::Fails);
                for (b, _) in self.to.iter().enumerate().filter(alike) {
                    let (a, b) = (self.load(a), self.load(b));
                    prop_assert!(
                        a.abs_diff(b) <= 1,
                        "{a} and {b} streams on instances that can run the same"
                    );
                }
            }
            Ok(())
        }
    }

    fn worlds(kinds: impl Strategy<Value = To> + Clone + 'static) -> impl Strategy<Value = World> {
        (1..6_usize, 1..13_usize).prop_flat_map(move |(instances, streams)| {
            let to = prop::collection::vec(prop::collection::vec(kinds.clone(), streams), instances);
            let held = prop::collection::vec(prop::option::of(0..instances), streams);
            // Some have the same configuration.
            let alike = prop::collection::vec(prop::option::of(0..instances), instances);
            (to, held, alike).prop_map(|(mut to, held, alike)| {
                for (n, other) in alike.into_iter().enumerate() {
                    if let Some(other) = other {
                        to[n] = to[other].clone();
                    }
                }
                World::new(to, &held)
            })
        })
    }

    fn any_kind() -> impl Strategy<Value = To> + Clone {
        prop_oneof![Just(To::Unknown), Just(To::Fails), Just(To::Runs), Just(To::Runs), Just(To::Runs)]
    }

    proptest! {
        #[test]
        fn with_one_configuration_the_spread_is_at_most_one_and_each_stream_moves_once(mut world in worlds(Just(To::Runs))) {
            let streams = world.to[0].len();
            world.settle()?;
            world.check()?;
            prop_assert!(world.hand_overs <= streams, "{} hand-overs of {streams} streams", world.hand_overs);
        }

        #[test]
        fn with_any_configurations_everything_that_can_run_runs_evenly_and_nothing_flaps(mut world in worlds(any_kind())) {
            world.settle()?;
            world.check()?;
        }

        /// Each sees the board as it was some steps ago, and acts late.
        #[test]
        fn what_was_seen_late_does_no_lasting_harm(
            mut world in worlds(any_kind()),
            steps in prop::collection::vec((0..5_usize, 0..4_usize), 0..60),
        ) {
            let mut past = vec![world.board.clone()];
            for (me, late) in steps {
                let seen = past[past.len() - 1 - late.min(past.len() - 1)].clone();
                world.act(me % world.to.len(), &seen);
                past.push(world.board.clone());
            }
            world.settle()?;
            world.check()?;
        }

        #[test]
        fn an_instance_that_comes_or_goes_moves_no_more_than_it_must(mut world in worlds(Just(To::Runs)), gone in 0..5_usize) {
            world.settle()?;
            let gone = gone % world.to.len();
            let before = world.load(gone);
            let name = holder(gone);
            world.board.held.retain(|_, owner| *owner != name);
            let left = world.to.remove(gone);
            // The others keep their names.
            world.board.instances.retain(|instance| instance.holder != name);
            world.hand_overs = 0;
            let others: Vec<usize> = (0..=world.to.len()).filter(|n| *n != gone).collect();
            let round = |world: &mut World, who: &[usize]| {
                for me in who {
                    let seen = world.board.clone();
                    world.act(*me, &seen);
                }
            };
            for _ in 0..6 {
                round(&mut world, &others);
            }
            prop_assert_eq!(world.hand_overs, if others.is_empty() { 0 } else { before });
            world.to.insert(gone, left);
            world.announce();
            world.hand_overs = 0;
            world.settle()?;
            world.check()?;
            prop_assert!(world.hand_overs <= world.load(gone).max(world.board.held.len() * usize::from(others.is_empty())));
        }
    }

    #[test]
    fn a_stream_that_only_i_have_is_mine_however_much_i_have() {
        use To::{Runs, Unknown};
        let mut world = World::new(vec![vec![Runs; 4], vec![Unknown, Unknown, Unknown, Runs]], &[None; 4]);
        world.everybody_acts();
        assert_eq!((world.load(0), world.load(1)), (3, 1));
    }

    #[test]
    fn a_chain_of_moves_evens_out_what_no_single_move_can() {
        use To::{Runs, Unknown};
        // The first has three, and the second can run one of them; the second has two, and the third can run one of them.
        let to = vec![
            vec![Runs, Runs, Runs, Unknown, Unknown, Unknown],
            vec![Unknown, Unknown, Runs, Runs, Runs, Unknown],
            vec![Unknown, Unknown, Unknown, Unknown, Runs, Runs],
        ];
        let mut world = World::new(to, &[Some(0), Some(0), Some(0), Some(1), Some(1), Some(2)]);
        assert!(world.settle().is_ok());
        assert_eq!([world.load(0), world.load(1), world.load(2)], [2, 2, 2]);
        assert_eq!(world.hand_overs, 2);
    }

    #[test]
    fn a_stream_that_halts_is_tried_once_by_each_and_then_rests() {
        let mut world = World::new(vec![vec![To::Runs; 3]; 3], &[None; 3]);
        let mut tries = 0;
        for _ in 0..12 {
            world.everybody_acts();
            if let Some(owner) = world.board.held.remove(&stream(1)) {
                // It halts there, for as long as that process lives.
                tries += 1;
                let place = (0..3).find(|n| holder(*n) == owner).unwrap();
                world.to[place][1] = To::Unknown;
                world.announce();
            }
        }
        assert_eq!(tries, 3);
        assert!(!world.board.held.contains_key(&stream(1)));
    }

    #[test]
    fn a_failing_stream_goes_where_it_runs_and_does_not_come_back() {
        use To::{Fails, Runs};
        let mut world = World::new(vec![vec![Fails, Runs], vec![Runs, Runs]], &[None, Some(1)]);
        assert!(world.settle().is_ok());
        assert_eq!((world.load(0), world.load(1)), (1, 1));
        assert_eq!(world.board.held[&stream(0)], holder(1));
    }

    #[test]
    fn what_an_archiver_holds_that_takes_no_part_is_left_to_it() {
        let mut world = World::new(vec![vec![To::Runs; 2]; 2], &[None; 2]);
        world.board.held.insert(stream(0), "once:1:x".to_owned());
        assert!(world.settle().is_ok());
        assert_eq!(world.board.held[&stream(0)], "once:1:x");
        assert!(world.board.held.contains_key(&stream(1)));
    }

    #[test]
    fn nothing_is_moved_to_one_who_has_not_been_heard_of_lately() {
        let mut world = World::new(vec![vec![To::Runs; 4]; 2], &[Some(0); 4]);
        world.board.instances[1].fresh = false;
        let before = world.board.clone();
        world.act(0, &before);
        assert_eq!(world.load(0), 4);
        world.board.held.remove(&stream(2));
        let seen = world.board.clone();
        world.act(0, &seen);
        assert_eq!(world.load(0), 4, "what is free is taken by one who has");
    }
}
