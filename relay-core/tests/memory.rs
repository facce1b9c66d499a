//! A transport that is nothing but memory: no pipes, no word about hang-ups, all else by the trait's own
//! answers. And more bytes at once than the simulator's stories have.

use std::collections::VecDeque;

use relay_core::codec::Plain;
use relay_core::pool::LARGEST;
use relay_core::{Config, Instant, Leg, PerLeg, Pool, Pumped, Ready, Relay, Transport, TryError, pump};

const NOW: Instant = Instant::ZERO;
const BUDGET: usize = 256 << 10;

#[derive(Default)]
struct End {
    to_read: VecDeque<u8>,
    ended: bool,
    written: Vec<u8>,
    /// How much it still takes.
    room: usize,
    told_end: bool,
    /// It says that it moved so many more than it did.
    lies: usize,
    /// How much each read was offered room for.
    offered: Vec<usize>,
}

struct Memory(PerLeg<End>);

impl Transport for Memory {
    /// It would like them from the first byte on, and has none.
    const PIPE_FROM: usize = 1;

    fn try_read(&mut self, leg: Leg, slices: &mut [&mut [u8]]) -> Result<usize, TryError> {
        let end = &mut self.0[leg];
        end.offered.push(slices.iter().map(|slice| slice.len()).sum());
        if end.to_read.is_empty() && !end.ended {
            return Err(TryError::WouldBlock);
        }
        let bytes = slices.iter_mut().flat_map(|slice| slice.iter_mut());
        Ok(bytes.map_while(|to| end.to_read.pop_front().map(|byte| *to = byte)).count() + end.lies)
    }

    fn try_write(&mut self, leg: Leg, slices: &[&[u8]]) -> Result<usize, TryError> {
        let end = &mut self.0[leg];
        if end.room == 0 {
            return Err(TryError::WouldBlock);
        }
        let before = end.written.len();
        end.written.extend(slices.iter().copied().flatten().take(end.room));
        let count = end.written.len() - before;
        end.room -= count;
        Ok(count + end.lies)
    }

    fn shut_write(&mut self, leg: Leg) -> Result<(), TryError> {
        self.0[leg].told_end = true;
        Ok(())
    }
}

struct Story {
    relay: Relay<Plain>,
    memory: Memory,
    ready: PerLeg<Ready>,
    pool: Pool,
}

impl Story {
    fn new(capacity: usize) -> Self {
        let mut relay = Relay::new(Config::new(capacity), Plain, NOW);
        relay.connected(NOW, Plain);
        let memory = Memory(PerLeg::new(End::default(), End::default()));
        Self { relay, memory, ready: PerLeg::both(Ready::BOTH), pool: Pool::default() }
    }

    fn run(&mut self) -> Pumped {
        self.ready = PerLeg::new(self.ready.front, self.ready.back).map(|ready| Ready {
            readable: true,
            writable: true,
            hung_up: ready.hung_up,
        });
        loop {
            let pumped =
                pump(&mut self.relay, &mut self.memory, &mut self.ready, &mut self.pool, NOW, BUDGET);
            if pumped != Pumped::Again {
                return pumped;
            }
        }
    }
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at * 31 + at / 251) as u8).collect()
}

#[test]
fn a_flow_holds_one_buffer_at_most_whatever_its_capacity_and_loses_nothing() {
    let mut story = Story::new(8 << 20);
    let sent = bytes(3 * LARGEST + 12_345);
    story.memory.0.front.to_read = sent.iter().copied().collect();
    story.memory.0.front.ended = true;
    assert_eq!(story.run(), Pumped::Idle);
    let held = story.relay.held();
    assert!(held > LARGEST / 2, "it reads ahead: {held}");
    assert_eq!(sent.len(), held + story.memory.0.front.to_read.len());

    // Now and then the sink takes a piece, large or small.
    for room in (0..).map(|turn| [1, 70_000, 3, 4096, LARGEST - 1][turn % 5]) {
        story.memory.0.back.room = room;
        assert_eq!(story.run(), Pumped::Idle);
        let (held, lent) = (story.relay.held(), story.relay.lent());
        assert!(held <= lent && lent <= LARGEST, "{held} of {lent} bytes");
        if story.memory.0.back.told_end {
            break;
        }
    }
    assert!(story.memory.0.back.written == sent, "something is lost, or out of order");
    assert_eq!(story.relay.lent(), 0, "nothing waits, and a buffer is kept");

    story.memory.0.back.ended = true;
    assert_eq!(story.run(), Pumped::Done);
    let outcome = story.relay.outcome().expect("done");
    assert!(outcome.is_clean(), "{outcome:?}");
    assert_eq!(outcome.flows.front.delivered, sent.len() as u64);
}

/// Reads are as large as their source deserves: it costs a whole buffer to offer one.
#[test]
fn reads_grow_while_they_are_filled_and_shrink_when_little_comes() {
    let mut story = Story::new(LARGEST);
    story.memory.0.back.room = usize::MAX;
    let mut sizes = |count: usize| {
        let front = &mut story.memory.0.front;
        front.to_read = bytes(count).into();
        front.offered.clear();
        assert_eq!(story.run(), Pumped::Idle);
        core::mem::take(&mut story.memory.0.front.offered)
    };
    let first = sizes(4 * LARGEST);
    assert_eq!(first[..5], [4 << 10, 16 << 10, 64 << 10, 256 << 10, LARGEST]);
    assert_eq!(sizes(LARGEST / 4)[0], LARGEST, "much came before");
    assert_eq!(sizes(1)[0], LARGEST, "a quarter of it came before");
    let shrinking: Vec<usize> = (0..9).map(|_| sizes(100)[0]).collect();
    let halves: Vec<usize> = (1..10).map(|times| (LARGEST >> times).max(4 << 10)).collect();
    assert_eq!(shrinking, halves);
    assert_eq!(sizes(4 << 10)[..2], [4 << 10, 16 << 10], "and it grows again");
}

/// It cannot say whether there is something to read, nor why it died: nothing is given up for that.
#[test]
fn a_hang_up_that_nobody_can_explain_ends_nothing_early() {
    let mut story = Story { relay: Relay::new(Config::new(LARGEST), Plain, NOW), ..Story::new(1) };
    story.memory.0.back.room = usize::MAX;
    story.memory.0.front.to_read = bytes(100).into();
    story.memory.0.front.ended = true;
    story.ready.front.hung_up = true;
    assert_eq!(story.run(), Pumped::Idle);
    assert!(story.relay.wants_connect(), "what it sent is still wanted");

    story.relay.connected(NOW, Plain);
    assert_eq!(story.run(), Pumped::Idle);
    assert_eq!(story.memory.0.back.written, bytes(100));
    assert!(story.memory.0.back.told_end);

    story.memory.0.back.ended = true;
    assert_eq!(story.run(), Pumped::Done);
    assert!(story.memory.0.front.told_end);
    assert!(story.relay.outcome().expect("done").is_clean());
}

#[test]
#[should_panic(expected = "contract: a transport moves no more than it is offered")]
fn a_read_of_more_than_was_offered() {
    let mut story = Story::new(LARGEST);
    story.memory.0.front.to_read = bytes(LARGEST).into();
    story.memory.0.front.lies = 1;
    story.run();
}

#[test]
#[should_panic(expected = "contract: a transport moves no more than it is offered")]
fn a_write_of_more_than_was_offered() {
    let mut story = Story::new(LARGEST);
    story.memory.0.front.to_read = bytes(100).into();
    story.memory.0.back.room = LARGEST;
    story.memory.0.back.lies = 1;
    story.run();
}
