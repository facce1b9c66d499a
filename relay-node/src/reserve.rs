//! The descriptor that a session brings along for its backend.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::sync::{Mutex, MutexGuard, PoisonError};

use relay_core::Failure;

/// Taken before a connection is accepted and given back just before its backend is dialed, so that
/// whoever is let in can be connected. Otherwise, when descriptors run short, fronts would take them
/// all, and every one of them wait in vain for another.
#[derive(Debug)]
pub struct Reserve {
    /// Anything that costs little and needs no file.
    _descriptor: UnixDatagram,
}

/// What finding a backend takes besides its socket, and for as long as that lasts only: a directory, and the
/// socket's file in it. One set for the whole process, for when descriptors are short, one dial is begun at a time.
const SPARE: usize = 2;

/// Held by whoever gives a descriptor back to have another at once, and by whoever takes some to let somebody in: what
/// was given back by the one would be gone to the other, and the session that it was for be stuck with all that wait
/// behind it. Descriptors are the process', so this is, too.
static EXCHANGE: Mutex<Vec<Reserve>> = Mutex::new(Vec::new());

/// See [`exchange`].
#[derive(Debug)]
pub struct Exchange(MutexGuard<'static, Vec<Reserve>>);

/// While this is there, nobody else lets somebody in, or dials with what was given back for it.
#[must_use]
pub fn exchange() -> Exchange {
    // Whoever panicked has left it whole.
    Exchange(EXCHANGE.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Reserve {
    /// Takes one.
    ///
    /// # Errors
    /// As socket(2): there is none left.
    pub fn new() -> io::Result<Self> {
        UnixDatagram::unbound().map(|descriptor| Self { _descriptor: descriptor })
    }
}

/// Has `dial` take what it needs, and gives `reserve` back for it. It stays as it is if that comes to nothing.
///
/// While there are other descriptors, nobody else is kept from letting somebody in or from dialing meanwhile: where
/// a backend is to be found, a file system may take as long as it likes to say so.
///
/// # Errors
/// Those of `dial`, which is tried again with `reserve`, and then with what was laid aside, if descriptors are all that
/// it lacks.
pub fn spend<T>(
    reserve: &mut Option<Reserve>,
    mut dial: impl FnMut() -> Result<T, Failure>,
) -> Result<T, Failure> {
    match dial() {
        Err(Failure::Exhausted) => exchange().spend(reserve, dial),
        Ok(dialed) => {
            *reserve = None;
            Ok(dialed)
        }
        Err(failure) => Err(failure),
    }
}

impl Exchange {
    /// Lays aside what a dial takes besides its socket, as far as there is any.
    pub fn lay_aside(&mut self) {
        while self.0.len() < SPARE
            && let Ok(spare) = Reserve::new()
        {
            self.0.push(spare);
        }
    }

    /// One for whom is let in next. What dials need besides comes first: whoever is in already is to get through.
    ///
    /// # Errors
    /// If there is none.
    pub fn reserve(&mut self, kept: Option<Reserve>) -> io::Result<Reserve> {
        self.lay_aside();
        kept.map_or_else(Reserve::new, Ok)
    }

    fn spend<T>(
        mut self,
        reserve: &mut Option<Reserve>,
        mut dial: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        *reserve = None;
        let mut dialed = dial();
        if matches!(dialed, Err(Failure::Exhausted)) && !self.0.is_empty() {
            self.0.clear();
            dialed = dial();
        }
        if dialed.is_err() {
            // If there is none any more, the next dial finds that out, too.
            *reserve = Reserve::new().ok();
        }
        self.lay_aside();
        dialed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    /// The tests' own: they share in what was laid aside.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

    #[test]
    fn a_dial_has_what_was_laid_aside_if_it_lacks_descriptors_and_nothing_is_lost() {
        let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let mut reserve = Some(Reserve::new().expect("a descriptor"));
        let mut before = exchange();
        before.lay_aside();
        assert_eq!(before.0.len(), SPARE);
        drop(before);

        let mut dials = 0;
        let dialed = spend(&mut reserve, || {
            dials += 1;
            if dials <= 2 { Err(Failure::Exhausted) } else { Ok(()) }
        });
        assert_eq!((dialed, dials, reserve.is_none()), (Ok(()), 3, true));
        assert_eq!(exchange().0.len(), SPARE, "laid aside again");

        let mut reserve = Some(Reserve::new().expect("a descriptor"));
        let dialed: Result<(), _> = spend(&mut reserve, || Err(Failure::Refused));
        assert_eq!((dialed, reserve.is_some()), (Err(Failure::Refused), true));
        assert_eq!((spend(&mut reserve, || Ok(())), reserve.is_none()), (Ok(()), true));
    }

    /// A pod's file system may be one that does not answer.
    #[test]
    fn a_dial_that_takes_its_time_holds_nobody_up() {
        let mut reserve = Some(Reserve::new().expect("a descriptor"));
        let (tell, told) = mpsc::channel();
        let dialed = spend(&mut reserve, || {
            let tell = tell.clone();
            std::thread::spawn(move || tell.send(exchange().reserve(None).is_ok()));
            told.recv_timeout(Duration::from_secs(60)).map_err(|_| Failure::TimedOut)
        });
        assert_eq!(dialed, Ok(true), "somebody was let in meanwhile");
    }

    #[test]
    fn what_was_lost_is_laid_aside_before_anybody_is_let_in() {
        let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let mut exchange = exchange();
        exchange.0.clear();
        exchange.reserve(None).expect("a descriptor");
        assert_eq!(exchange.0.len(), SPARE);
    }
}
