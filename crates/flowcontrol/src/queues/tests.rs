//! What a level promises: examples, and promises under whatever happens.

use proptest::prelude::*;

use super::*;

type Set = QueueSet<u32, ()>;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn queue(queues: u32, hand_size: u32, length_limit: u32) -> Response {
    Response::Queue(Queuing {
        queues,
        hand_size,
        length_limit,
    })
}

#[test]
fn a_free_seat_is_taken_at_once_and_the_last_in_line_is_sent_away() {
    let mut set = Set::new(queue(1, 1, 1), 1, ms(0));
    let (first, _) = set.start(ms(0), 0, Work::ONE, (), || 0);
    let Start::Run(first) = first else {
        panic!("{first:?}")
    };
    let (second, granted) = set.start(ms(1), 0, Work::ONE, (), || 1);
    assert!(matches!(second, Start::Wait(_)) && granted.is_empty());
    let (third, _) = set.start(ms(2), 0, Work::ONE, (), || 2);
    assert_eq!(third, Start::Refuse(Refusal::QueueFull));
    let granted = set.finish(ms(3), first);
    assert_eq!(granted.len(), 1);
    assert_eq!((set.running(), set.waiting(), set.seats()), (1, 0, 1));
    let counts = Counts {
        dispatched: 2,
        rejected: 1,
        cancelled: 0,
    };
    assert_eq!(set.counts(), counts);
}

#[test]
fn who_does_not_wait_is_refused_and_who_is_exempt_is_not() {
    let mut set = Set::new(Response::Reject, 1, ms(0));
    let (first, _) = set.start(ms(0), 0, Work::ONE, (), || 0);
    assert!(matches!(first, Start::Run(_)));
    let (second, _) = set.start(ms(0), 0, Work::ONE, (), || 1);
    assert_eq!(second, Start::Refuse(Refusal::ConcurrencyLimit));
    let mut set = Set::new(Response::Exempt, 0, ms(0));
    for n in 0..100 {
        let (start, _) = set.start(ms(0), 0, Work::ONE, (), || n);
        assert!(matches!(start, Start::Run(_)));
    }
    assert_eq!(set.take_demand(ms(1)).max, 100.0);
}

#[test]
fn a_quiet_flow_is_served_before_a_flood() {
    let mut set = Set::new(queue(64, 1, 100), 1, ms(0));
    let mut running = None;
    for n in 0..50 {
        let (start, _) = set.start(ms(0), 1, Work::ONE, (), || n);
        if let Start::Run(r) = start {
            running = Some(r);
        }
    }
    // Another flow, whose queue is another one.
    let (start, _) = set.start(ms(1), 2, Work::ONE, (), || 1000);
    assert!(matches!(start, Start::Wait(_)));
    let mut at = 1;
    let mut order = Vec::new();
    while let Some(r) = running.take() {
        at += 5;
        for (waiter, r) in set.finish(ms(at), r) {
            order.push(waiter);
            running = Some(r);
        }
    }
    let place = order.iter().position(|w| *w == 1000).expect("served");
    assert!(place <= 1, "{order:?}");
    assert_eq!(order.len(), 50);
    assert!(set.is_idle() && set.active == 0);
}

#[test]
fn lists_leave_seats_to_small_requests() {
    let mut set = Set::new(queue(64, 1, 100), 32, ms(0));
    let list = Work::of(8);
    let mut runs = 0;
    for n in 0..10 {
        let (start, _) = set.start(ms(0), 1, list, (), || n);
        runs += u32::from(matches!(start, Start::Run(_)));
    }
    assert_eq!(
        (runs, set.seats()),
        (3, 24),
        "a fourth would take the last seats"
    );
    // Somebody else's waits for none of them.
    let (start, granted) = set.start(ms(1), 2, Work::ONE, (), || 1000);
    let granted: Vec<u32> = granted.iter().map(|(waiter, _)| *waiter).collect();
    assert!(
        matches!(start, Start::Wait(_)) && granted == [1000],
        "{granted:?}"
    );
    // Alone it may have them all.
    let mut set = Set::new(queue(64, 1, 100), 32, ms(0));
    let (start, _) = set.start(ms(0), 1, Work::of(32), (), || 0);
    assert!(matches!(start, Start::Run(_)));
}

/// Lists of eight seats that take 20 ms each flood a level for a minute, in queues of their own
/// (the hand), and there are always more. Gives how many of them are let run before a request of
/// `seats` of somebody else that came last.
fn lists_before(limit: u32, seats: u32) -> usize {
    const OTHER: u32 = 1_000_000;
    let mut set = Set::new(queue(128, 6, 200), limit, ms(0));
    let mut runs: std::collections::VecDeque<(Duration, Running)> = Default::default();
    let come = |set: &mut Set, now, flow, work, n, runs: &mut std::collections::VecDeque<_>| {
        let (start, granted) = set.start(now, flow, work, (), || n);
        let at_once = match start {
            Start::Run(running) => Some((n, running)),
            _ => None,
        };
        let mut all = Vec::new();
        for (n, running) in at_once.into_iter().chain(granted) {
            all.push(n);
            runs.push_back((now + ms(20), running));
        }
        all
    };
    for n in 0..256 {
        come(&mut set, ms(0), 7, Work::of(8), n, &mut runs);
    }
    let mut after: Option<usize> = None;
    for n in 256.. {
        let (end, ended) = runs.pop_front().expect("something runs");
        let mut granted = Vec::new();
        for (n, running) in set.finish(end, ended) {
            granted.push(n);
            runs.push_back((end + ms(20), running));
        }
        granted.extend(come(&mut set, end, 7, Work::of(8), n, &mut runs));
        if after.is_none() && end > Duration::from_secs(60) {
            granted = come(&mut set, end, 8, Work::of(seats), OTHER, &mut runs);
            after = Some(0);
        }
        if let Some(count) = &mut after {
            if let Some(at) = granted.iter().position(|n| *n == OTHER) {
                return *count + at;
            }
            *count += granted.len();
        }
    }
    usize::MAX
}

#[test]
fn who_comes_new_is_not_behind_a_flood_that_lasts() {
    // Eight seats do not divide the level's: some stay free, and virtual time knows it.
    for limit in [12, 30, 49, 56, 64] {
        let small = lists_before(limit, 1);
        assert!(
            small <= if limit < 16 { 6 } else { 0 },
            "{limit}: {small} lists first"
        );
        let list = lists_before(limit, 8);
        assert!(list <= 16, "{limit}: {list} lists first");
    }
}

#[test]
fn seats_that_linger_come_back_by_time() {
    let wide = Work {
        initial_seats: 1,
        final_seats: 2,
        latency: ms(50),
    };
    let mut set = Set::new(queue(8, 2, 10), 2, ms(0));
    let (Start::Run(first), _) = set.start(ms(0), 0, wide, (), || 0) else {
        panic!("a seat was free")
    };
    let (second, _) = set.start(ms(1), 0, Work::ONE, (), || 1);
    assert!(matches!(second, Start::Wait(_)));
    assert_eq!(set.wakes_at(), None);
    assert!(set.finish(ms(10), first).is_empty());
    assert_eq!(set.wakes_at(), Some(ms(60)));
    assert!(set.pass(ms(59)).is_empty());
    assert_eq!(set.pass(ms(60)).len(), 1);
    assert_eq!(set.wakes_at(), None);
}

#[test]
fn one_that_wants_more_than_there_is_runs_alone() {
    let mut set = Set::new(queue(8, 2, 10), 2, ms(0));
    let (Start::Run(small), _) = set.start(ms(0), 0, Work::ONE, (), || 0) else {
        panic!("a seat was free")
    };
    let (large, _) = set.start(ms(0), 1, Work::of(5), (), || 1);
    assert!(matches!(large, Start::Wait(_)));
    // Nobody overtakes it for ever.
    let (other, granted) = set.start(ms(100), 2, Work::ONE, (), || 2);
    assert!(matches!(other, Start::Wait(_)) && granted.len() <= 1);
    let mut running = vec![small];
    running.extend(granted.into_iter().map(|(_, r)| r));
    let mut seen = Vec::new();
    let mut at = 200;
    while let Some(r) = running.pop() {
        at += 1;
        for (waiter, r) in set.finish(ms(at), r) {
            seen.push(waiter);
            running.push(r);
        }
    }
    assert!(seen.contains(&1), "{seen:?}");
}

#[test]
fn queues_that_are_gone_are_still_served() {
    let mut set = Set::new(queue(64, 1, 10), 1, ms(0));
    let (Start::Run(first), _) = set.start(ms(0), 63, Work::ONE, (), || 0) else {
        panic!("a seat was free")
    };
    let (second, _) = set.start(ms(0), 63, Work::ONE, (), || 1);
    assert!(matches!(second, Start::Wait(_)));
    assert!(set.configure(ms(1), Response::Reject, 1).is_empty());
    let (third, _) = set.start(ms(1), 0, Work::ONE, (), || 2);
    assert_eq!(third, Start::Refuse(Refusal::ConcurrencyLimit));
    assert_eq!(set.finish(ms(2), first).len(), 1);
    // More seats let more run.
    let mut set = Set::new(queue(1, 1, 10), 0, ms(0));
    for n in 0..3 {
        set.start(ms(0), 0, Work::ONE, (), || n);
    }
    assert_eq!(set.configure(ms(1), queue(1, 1, 10), 2).len(), 2);
}

/// What may happen.
#[derive(Clone, Debug)]
enum Step {
    Come {
        flow: u64,
        seats: u32,
        linger: u64,
    },
    /// The nth of those that run ends.
    End(usize),
    /// The nth of those that wait gives up.
    GiveUp(usize),
    Pass(u64),
    Seats(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0_u64..6, 1_u32..4, 0_u64..2).prop_map(|(flow, seats, linger)| Step::Come { flow, seats, linger }),
        6 => any::<usize>().prop_map(Step::End),
        1 => any::<usize>().prop_map(Step::GiveUp),
        3 => (1_u64..50).prop_map(Step::Pass),
        1 => (1_u32..12).prop_map(Step::Seats),
    ]
}

proptest! {
    /// Never more than its seats (but one that wants more than there are, alone); every request
    /// ends in exactly one way; nothing waits while it would fit; all are served in the end.
    #[test]
    fn it_keeps_its_promises(steps in proptest::collection::vec(step(), 1..300)) {
        let response = queue(16, 3, 8);
        let mut limit = 6;
        let mut set = Set::new(response, limit, ms(0));
        let (mut now, mut next) = (0_u64, 0_u32);
        let mut running: Vec<Running> = Vec::new();
        let mut waiting: Vec<(u32, Ticket)> = Vec::new();
        let mut highest_limit = limit;
        for step in steps {
            let granted = match step {
                Step::Come { flow, seats, linger } => {
                    let work = Work { initial_seats: 1, final_seats: seats, latency: ms(linger * 20) };
                    let id = next;
                    next += 1;
                    let flow = flow.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 4;
                    let (start, granted) = set.start(ms(now), flow, work, (), || id);
                    match start {
                        Start::Run(r) => running.push(r),
                        Start::Wait(ticket) => waiting.push((id, ticket)),
                        Start::Refuse(_) => {}
                    }
                    granted
                }
                Step::End(n) if !running.is_empty() => {
                    let r = running.swap_remove(n % running.len());
                    set.finish(ms(now), r)
                }
                Step::GiveUp(n) if !waiting.is_empty() => {
                    let (id, ticket) = waiting.swap_remove(n % waiting.len());
                    let (gone, granted) = set.cancel(ms(now), ticket);
                    prop_assert_eq!(gone, Some(id));
                    granted
                }
                Step::End(_) | Step::GiveUp(_) => Vec::new(),
                Step::Pass(n) => {
                    now += n;
                    set.pass(ms(now))
                }
                Step::Seats(n) => {
                    limit = n;
                    set.configure(ms(now), response, n)
                }
            };
            for (id, r) in granted {
                let at = waiting.iter().position(|(w, _)| *w == id);
                prop_assert!(at.is_some(), "granted twice: {id}");
                waiting.swap_remove(at.unwrap_or(0));
                running.push(r);
            }
            highest_limit = highest_limit.max(limit);
            prop_assert_eq!(set.running() as usize, running.len());
            prop_assert_eq!(set.waiting() as usize, waiting.len());
            prop_assert!(set.seats() <= highest_limit.max(4) || running.len() <= 1);
            // Nothing waits beside a whole empty level.
            prop_assert!(waiting.is_empty() || set.seats() > 0);
        }
        // Everybody who waits is served when those that run end.
        while !running.is_empty() || !waiting.is_empty() {
            now += 20;
            let mut granted = set.pass(ms(now));
            if let Some(r) = running.pop() {
                granted.extend(set.finish(ms(now), r));
            }
            for (id, r) in granted {
                waiting.retain(|(w, _)| *w != id);
                running.push(r);
            }
            prop_assert!(now < 10_000_000, "somebody starves");
        }
        now += 1000;
        set.pass(ms(now));
        prop_assert_eq!(set.seats(), 0);
        prop_assert_eq!(set.active, 0);
    }

    /// However many others flood, a flow that has a queue to itself has its share.
    #[test]
    fn no_flow_starves(floods in 1_u64..8, seed: u64) {
        let mut set = QueueSet::<u64, ()>::new(queue(64, 1, 50), 4, ms(0));
        let quiet = 63;
        let mut running = std::collections::VecDeque::new();
        let mut chance = seed | 1;
        let (mut asked, mut served) = (0, 0);
        for now in 0..2000 {
            chance ^= chance << 13;
            chance ^= chance >> 7;
            chance ^= chance << 17;
            for _ in 0..4 {
                let flow = chance % floods;
                let (start, granted) = set.start(ms(now), flow, Work::ONE, (), || flow);
                if let Start::Run(r) = start {
                    running.push_back((flow, r));
                }
                running.extend(granted);
            }
            if now % 20 == 0 {
                asked += 1;
                let (start, granted) = set.start(ms(now), quiet, Work::ONE, (), || quiet);
                prop_assert!(!matches!(start, Start::Refuse(_)));
                if let Start::Run(r) = start {
                    running.push_back((quiet, r));
                }
                running.extend(granted);
            }
            if now % 2 == 0 && let Some((flow, r)) = running.pop_front() {
                served += u32::from(flow == quiet);
                running.extend(set.finish(ms(now), r));
            }
        }
        // Its part would be an eighth of the seats at least; it asks for a tenth.
        prop_assert!(served + 5 >= asked, "{served} of {asked}");
    }
}
