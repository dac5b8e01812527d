//! Long work, as the person sees it who waits for it: in a terminal one line that is drawn over and
//! over, elsewhere a line now and then. It goes to standard error, so that what a command answers can be
//! passed on.

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use terminal::progress::{Step, Unit};
use terminal::style::Style;

use super::tty;
use crate::say::{complain, say};

/// Between two drawings: as often as an eye can use.
const DRAWN_EVERY: Duration = Duration::from_millis(100);
/// What is done sooner is not worth a line.
const WORTH_A_LINE: Duration = Duration::from_millis(300);
/// Between two lines where there is no terminal: a log of an hour stays readable.
const SAID_EVERY: Duration = Duration::from_secs(10);

/// How much is done, and of how much (0: nobody knows).
type Count = Box<dyn Fn() -> (u64, u64) + Send>;

struct Doing {
    what: String,
    unit: Unit,
    count: Count,
    began: Instant,
}

#[derive(Default)]
struct State {
    doing: Option<Doing>,
    is_drawn: bool,
    has_ended: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Of a terminal on which a line can be drawn over.
    live: Option<Style>,
}

/// Work that is shown until this is dropped.
pub struct Work {
    shared: Arc<Shared>,
    painter: Option<JoinHandle<()>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the line away, so that others can write.
    fn clear(&self, state: &mut State) {
        if state.is_drawn {
            state.is_drawn = false;
            write("\r\x1b[K");
        }
    }

    fn show(&self, state: &mut State) {
        let Some(doing) = &state.doing else { return };
        let (done, all) = (doing.count)();
        let step = Step {
            what: &doing.what,
            unit: doing.unit,
            done,
            all,
            seconds: doing.began.elapsed().as_secs(),
        };
        match self.live {
            // The cursor goes back to the line's begin: what somebody else writes goes over it.
            Some(style) => {
                write(&format!(
                    "\r{}\x1b[K\r",
                    step.live(tty::errors_width(), style)
                ));
                state.is_drawn = true;
            }
            None => complain!("{}", step.plain()),
        }
    }

    /// Draws until the end.
    fn paint(&self) {
        let every = match self.live {
            Some(_) => DRAWN_EVERY,
            None => SAID_EVERY,
        };
        let mut state = self.lock();
        while !state.has_ended {
            if state.doing.is_none() {
                let woken = self.changed.wait(state);
                state = woken.unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let waited = self.changed.wait_timeout(state, every);
            let (next, out) = waited.unwrap_or_else(PoisonError::into_inner);
            state = next;
            let is_old = |d: &Doing| d.began.elapsed() >= WORTH_A_LINE;
            if out.timed_out() && !state.has_ended && state.doing.as_ref().is_some_and(is_old) {
                self.show(&mut state);
            }
        }
    }
}

/// A terminal that is gone needs nothing.
fn write(text: &str) {
    let mut out = std::io::stderr().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

impl Work {
    /// Nothing is shown before [`Work::step`].
    pub fn begin() -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let of = |name: &str| std::env::var(name).ok();
        let term = of("TERM");
        let style = Style::of(is_terminal, of("NO_COLOR").as_deref(), term.as_deref());
        let can_draw = is_terminal && term.as_deref() != Some("dumb");
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            live: can_draw.then_some(style),
        });
        let own = shared.clone();
        Self {
            shared,
            painter: Some(std::thread::spawn(move || own.paint())),
        }
    }

    /// This is done from now on; `count` says how much, and of how much.
    pub fn step(
        &self,
        what: impl Into<String>,
        unit: Unit,
        count: impl Fn() -> (u64, u64) + Send + 'static,
    ) {
        let mut state = self.shared.lock();
        self.shared.clear(&mut state);
        state.doing = Some(Doing {
            what: what.into(),
            unit,
            count: Box::new(count),
            began: Instant::now(),
        });
        // It may have waited for something to do; and a line where there is no terminal comes after the
        // whole of its time.
        self.shared.changed.notify_all();
    }

    /// This is waited for from now on.
    pub fn waits(&self, what: impl Into<String>) {
        self.step(what, Unit::Time, || (0, 0));
    }

    /// Nothing is done any more.
    pub fn rests(&self) {
        let mut state = self.shared.lock();
        self.shared.clear(&mut state);
        state.doing = None;
    }

    /// A line on standard output, where the work's line may be in the way.
    pub fn say(&self, text: &str) {
        let mut state = self.shared.lock();
        self.shared.clear(&mut state);
        say!("{text}");
    }

    /// A line on standard error.
    pub fn complain(&self, text: &str) {
        let mut state = self.shared.lock();
        self.shared.clear(&mut state);
        complain!("{text}");
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            self.shared.clear(&mut state);
            state.doing = None;
            state.has_ended = true;
        }
        self.shared.changed.notify_all();
        if let Some(painter) = self.painter.take() {
            // It ends by itself; what it drew is gone.
            let _ = painter.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn work_asks_how_far_it_is_and_ends_with_its_value() {
        let asked = Arc::new(AtomicU64::new(0));
        let shared = Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            live: None,
        };
        let counted = asked.clone();
        let mut state = State {
            doing: Some(Doing {
                what: "saving".into(),
                unit: Unit::Things("keys"),
                count: Box::new(move || (counted.fetch_add(1, Ordering::Relaxed), 9)),
                began: Instant::now(),
            }),
            ..State::default()
        };
        shared.show(&mut state);
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert!(!state.is_drawn, "what is written stays");
        let work = Work::begin();
        work.waits("an end");
        work.rests();
        drop(work);
    }
}
