//! A flow's path: copied in, worked on by one or several threads, copied out in order.

use std::num::NonZeroUsize;
use std::sync::Arc;

use crate::helper::{Helper, Wait};
use crate::records::{Batch, Keys, PAYLOAD, RECORD};

/// What is done to a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Work {
    /// Plain in, records out.
    Seal,
    /// Records in, plain out.
    Open,
}

/// Who does it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plan {
    /// The loop's own thread, as relay does now.
    Alone,
    /// Each batch is split among so many threads, the loop's own included, which goes on when all of
    /// it is done: nothing is under way between two turns.
    Split(NonZeroUsize, Wait),
    /// A helper has one batch while the loop copies the next one in and the last one out: two are under way.
    Staged(Wait),
}

/// See the top of this file.
#[derive(Debug)]
pub struct Path {
    work: Work,
    plan: Plan,
    keys: Arc<Keys>,
    helpers: Vec<Helper>,
    /// Not under way. For a split plan one batch is as many parts.
    idle: Vec<Batch>,
    /// A helper has a batch that is to be taken back later.
    under_way: bool,
    next_number: u64,
    /// What comes in again and again, and the number of its first record.
    source: Batch,
    /// Where it is copied to.
    sink: Vec<u8>,
}

impl Path {
    /// One for batches of so many records.
    ///
    /// # Panics
    /// If there are more threads than records.
    #[must_use]
    pub fn new(work: Work, plan: Plan, records: usize) -> Self {
        let keys = Arc::new(Keys::new());
        let helpers = |count: usize, wait| {
            let helper = |_| {
                let keys = Arc::clone(&keys);
                Helper::new(wait, move |batch| apply(work, &keys, batch))
            };
            (0..count).map(helper).collect::<Vec<_>>()
        };
        let (helpers, idle) = match plan {
            Plan::Alone => (Vec::new(), vec![Batch::new(records)]),
            Plan::Split(threads, wait) => {
                let threads = threads.get();
                assert!(threads <= records, "a record for each thread");
                let part = |number| Batch::new((number + 1) * records / threads - number * records / threads);
                (helpers(threads - 1, wait), (0..threads).map(part).collect())
            }
            Plan::Staged(wait) => (helpers(1, wait), vec![Batch::new(records), Batch::new(records)]),
        };
        let mut source = Batch::new(records);
        source.payloads_mut().zip(0_u8..).for_each(|(payload, number)| payload.fill(number));
        if work == Work::Open {
            source.seal(&keys);
        }
        let sink = vec![0; records * RECORD];
        Self { work, plan, keys, helpers, idle, under_way: false, next_number: 0, source, sink }
    }

    /// Takes one batch through, or in a staged plan one in and, from the second on, one out.
    pub fn turn(&mut self) {
        match self.plan {
            Plan::Alone => {
                let mut batch = self.idle.pop().expect("nothing is under way");
                self.copy_in(&mut batch, 0);
                self.count();
                apply(self.work, &self.keys, &mut batch);
                self.copy_out(&batch, 0);
                self.idle.push(batch);
            }
            Plan::Split(..) => self.turn_split(),
            Plan::Staged(_) => {
                let mut batch = self.idle.pop().expect("one of two is idle");
                self.copy_in(&mut batch, 0);
                self.count();
                self.helpers[0].give(batch);
                if self.under_way {
                    self.take_staged();
                }
                self.under_way = true;
            }
        }
    }

    /// Waits for what is under way.
    pub fn finish(&mut self) {
        if std::mem::take(&mut self.under_way) {
            self.take_staged();
        }
    }

    /// What came out last.
    #[must_use]
    pub fn sink(&self) -> &[u8] {
        match self.work {
            Work::Seal => &self.sink,
            Work::Open => &self.sink[..self.source.records() * PAYLOAD],
        }
    }

    /// The last in the hands of the loop, the others in those of a helper each.
    fn turn_split(&mut self) {
        let mut parts = std::mem::take(&mut self.idle);
        let mut own = parts.pop().expect("nothing is under way");
        let mut at = 0;
        for (helper, mut part) in self.helpers.iter().zip(parts.drain(..)) {
            self.copy_in(&mut part, at);
            at += part.records();
            helper.give(part);
        }
        self.copy_in(&mut own, at);
        self.count();
        apply(self.work, &self.keys, &mut own);
        let mut at = 0;
        for number in 0..self.helpers.len() {
            let part = self.helpers[number].take_back();
            self.copy_out(&part, at);
            at += part.records();
            parts.push(part);
        }
        self.copy_out(&own, at);
        parts.push(own);
        self.idle = parts;
    }

    fn take_staged(&mut self) {
        let batch = self.helpers[0].take_back();
        self.copy_out(&batch, 0);
        self.idle.push(batch);
    }

    /// The next batch has other numbers. What comes in is always the same, so it must not when it is opened.
    fn count(&mut self) {
        if self.work == Work::Seal {
            self.next_number += self.source.records() as u64;
        }
    }

    /// Records from `at` on.
    fn copy_in(&self, batch: &mut Batch, at: usize) {
        batch.first = self.next_number + at as u64;
        match self.work {
            Work::Seal => {
                let source = self.source.payloads().skip(at);
                batch.payloads_mut().zip(source).for_each(|(to, from)| to.copy_from_slice(from));
            }
            Work::Open => {
                let length = batch.wire().len();
                batch.wire_mut().copy_from_slice(&self.source.wire()[at * RECORD..][..length]);
            }
        }
    }

    fn copy_out(&mut self, batch: &Batch, at: usize) {
        match self.work {
            Work::Seal => self.sink[at * RECORD..][..batch.wire().len()].copy_from_slice(batch.wire()),
            Work::Open => {
                let sink = self.sink[at * PAYLOAD..].chunks_exact_mut(PAYLOAD);
                sink.zip(batch.payloads()).for_each(|(to, from)| to.copy_from_slice(from));
            }
        }
    }
}

fn apply(work: Work, keys: &Keys, batch: &mut Batch) {
    match work {
        Work::Seal => batch.seal(keys),
        Work::Open => batch.open(keys),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever does it, the bytes are the same, batch after batch.
    #[test]
    fn order_is_kept() {
        let three = NonZeroUsize::new(3).expect("three");
        for work in [Work::Seal, Work::Open] {
            let mut alone = Path::new(work, Plan::Alone, 8);
            let others =
                [Wait::Parked, Wait::Spinning].map(|wait| [Plan::Split(three, wait), Plan::Staged(wait)]);
            let mut others: Vec<Path> =
                others.concat().into_iter().map(|plan| Path::new(work, plan, 8)).collect();
            for _ in 0..5 {
                alone.turn();
                for other in &mut others {
                    other.turn();
                    other.finish();
                    assert!(other.sink() == alone.sink(), "{:?} as alone", other.plan);
                }
            }
            let opened = alone.sink().chunks_exact(PAYLOAD).zip(alone.source.payloads());
            assert!(work == Work::Seal || opened.zip(0_u8..).all(|((out, _), number)| out[0] == number));
        }
    }
}
