//! Deliveries that fail, hang, wait and survive.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::atomic::{AtomicBool, AtomicUsize},
    time::Instant,
};

use super::*;
use crate::history::Settings;

const POLICY: Policy = Policy {
    max_age: Duration::from_secs(3600),
    max_attempts: 100,
};

fn open(folder: &Path) -> (History, Outbox) {
    // Written when asked for, and never else.
    let settings = Settings {
        flush_interval: Duration::from_secs(3600),
        ..Settings::default()
    };
    let history = History::open(folder, settings).unwrap();
    let outbox = Outbox::open(history.clone(), Handle::current()).unwrap();
    (history, outbox)
}

fn send(outbox: &Outbox, history: &History, destination: &str, subject: &str) {
    let promise = outbox.promise(destination, subject, format!("body of {subject}"));
    assert!(history.put(promise.changes()));
    assert!(outbox.settle(Duration::from_secs(10)));
    outbox.release(vec![promise]);
}

/// What arrived, in order.
#[derive(Clone, Default)]
struct Arrived(Arc<Mutex<Vec<Entry>>>);

impl Arrived {
    fn deliver(&self) -> Deliver {
        let arrived = self.clone();
        Arc::new(move |entry| {
            arrived.0.lock().push(entry.clone());
            Ok(())
        })
    }

    fn subjects(&self) -> Vec<String> {
        self.0.lock().iter().map(|it| it.subject.clone()).collect()
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_promised_arrives_once_in_order_and_is_known_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    let (history, outbox) = open(folder.path());
    let arrived = Arrived::default();
    outbox.serve("a", POLICY, arrived.deliver());
    let subjects: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    for subject in &subjects {
        send(&outbox, &history, "a", subject);
    }
    until("all to arrive", || outbox.standing("a").delivered == 20).await;
    assert_eq!(arrived.subjects(), subjects);
    let ids: BTreeSet<_> = arrived.0.lock().iter().map(|it| it.id.clone()).collect();
    assert_eq!(ids.len(), 20);
    assert_eq!(arrived.0.lock()[3].body, "body of 3");
    let deliveries = outbox.deliveries(Some("a"), None, None, 5).unwrap();
    let last: Vec<_> = deliveries.iter().map(|it| &*it.subject).collect();
    assert_eq!(last, ["19", "18", "17", "16", "15"]);
    assert_eq!(deliveries[0].state, Progress::Delivered);
    assert_eq!(deliveries[0].attempts, 1);
    let before = outbox.deliveries(None, None, Some(deliveries[4].number), 1);
    assert_eq!(before.unwrap()[0].subject, "14");
    let waiting = outbox.deliveries(None, Some(Progress::Waiting), None, 9);
    assert_eq!(waiting.unwrap(), []);
    assert_eq!(outbox.standing("a").waiting, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_hangs_holds_up_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let (history, outbox) = open(folder.path());
    let (go_on, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    outbox.serve(
        "hanging",
        POLICY,
        Arc::new(move |_| {
            let _ = wait.lock().recv_timeout(Duration::from_secs(20));
            Ok(())
        }),
    );
    let arrived = Arrived::default();
    outbox.serve("well", POLICY, arrived.deliver());
    let begun = Instant::now();
    for subject in ["1", "2", "3"] {
        send(&outbox, &history, "hanging", subject);
        send(&outbox, &history, "well", subject);
    }
    until("all to arrive", || arrived.subjects().len() == 3).await;
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(outbox.standing("hanging").waiting, 3);
    // Nor does it keep the process from its end.
    let begun = Instant::now();
    outbox.stop(Duration::from_millis(100)).await;
    assert!(begun.elapsed() < Duration::from_secs(2));
    drop(go_on);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_tried_again_under_the_same_id_and_what_comes_after_waits() {
    let folder = tempfile::tempdir().unwrap();
    let (history, outbox) = open(folder.path());
    let arrived = Arrived::default();
    let failing = Arc::new(AtomicBool::new(true));
    let tried = Arc::new(Mutex::new(Vec::new()));
    let deliver: Deliver = {
        let (failing, tried, deliver) =
            (Arc::clone(&failing), Arc::clone(&tried), arrived.deliver());
        Arc::new(move |entry| {
            tried.lock().push(entry.id.clone());
            if failing.swap(false, Ordering::Relaxed) {
                return Err(Failure::for_now("a test's own"));
            }
            deliver(entry)
        })
    };
    outbox.serve("a", POLICY, deliver);
    send(&outbox, &history, "a", "first");
    until("a failure", || outbox.standing("a").error.is_some()).await;
    send(&outbox, &history, "a", "second");
    assert_eq!(outbox.standing("a").error.as_deref(), Some("a test's own"));
    let waiting = outbox.deliveries(None, Some(Progress::Waiting), None, 9);
    let waiting = waiting.unwrap();
    assert_eq!(waiting.len(), 2);
    assert!(waiting[1].next_attempt.is_some(), "{waiting:?}");
    assert_eq!(waiting[1].error.as_deref(), Some("a test's own"));
    until("both to arrive", || arrived.subjects().len() == 2).await;
    assert_eq!(arrived.subjects(), ["first", "second"]);
    let tried = tried.lock();
    assert_eq!(tried[0], tried[1]);
    assert_ne!(tried[1], tried[2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_never_arrives_is_given_up_and_said_to_be() {
    let folder = tempfile::tempdir().unwrap();
    let (history, outbox) = open(folder.path());
    let never: Deliver = Arc::new(|_| Err(Failure::for_now("no")));
    let once = Policy {
        max_attempts: 1,
        ..POLICY
    };
    let short = Policy {
        max_age: Duration::ZERO,
        ..POLICY
    };
    outbox.serve("attempts", once, Arc::clone(&never));
    outbox.serve("age", short, never);
    outbox.serve("final", POLICY, Arc::new(|_| Err(Failure::for_good("no"))));
    outbox.serve("bug", once, Arc::new(|_| panic!("a test's own")));
    for name in ["attempts", "age", "final", "bug", "nowhere"] {
        send(&outbox, &history, name, name);
    }
    until("all to be given up", || {
        let failed = outbox.deliveries(None, Some(Progress::Failed), None, 9);
        failed.unwrap().len() == 5
    })
    .await;
    assert_eq!(
        history
            .shelf(Shelf::Outbox, &[], &[], Order::Oldest, 9)
            .unwrap(),
        []
    );
    assert_eq!(outbox.standing("final").failed, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_promised_survives_and_arrives_once_in_the_next_life() {
    let folder = tempfile::tempdir().unwrap();
    let tries = Arc::new(AtomicUsize::new(0));
    {
        let (history, outbox) = open(folder.path());
        let tries = Arc::clone(&tries);
        outbox.serve(
            "a",
            POLICY,
            Arc::new(move |_| {
                tries.fetch_add(1, Ordering::Relaxed);
                Err(Failure::for_now("away"))
            }),
        );
        send(&outbox, &history, "a", "first");
        send(&outbox, &history, "a", "second");
        send(&outbox, &history, "gone", "third");
        until("a try", || outbox.standing("a").error.is_some()).await;
        outbox.stop(Duration::from_secs(5)).await;
        history.stop();
    }
    let (history, outbox) = open(folder.path());
    let arrived = Arrived::default();
    outbox.serve("a", POLICY, arrived.deliver());
    outbox.keep_only(&["a"]);
    until("both to arrive", || outbox.standing("a").delivered == 2).await;
    assert_eq!(arrived.subjects(), ["first", "second"]);
    assert!(arrived.0.lock()[0].attempts > 1);
    send(&outbox, &history, "a", "fourth");
    until("the fourth", || outbox.standing("a").delivered == 3).await;
    let numbers: Vec<_> = arrived.0.lock().iter().map(|it| it.number).collect();
    assert!(numbers.is_sorted() && numbers[2] > 3, "{numbers:?}");
    let deliveries = outbox.deliveries(None, Some(Progress::Failed), None, 9);
    let deliveries = deliveries.unwrap();
    assert_eq!(deliveries.len(), 1, "that of a destination that is gone");
    assert_eq!(deliveries[0].subject, "third");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_promised_while_it_ends_waits_for_the_next_life() {
    let folder = tempfile::tempdir().unwrap();
    let (history, outbox) = open(folder.path());
    outbox.serve("a", POLICY, Arrived::default().deliver());
    outbox.stop(Duration::from_secs(5)).await;
    send(&outbox, &history, "a", "late");
    history.stop();
    drop((history, outbox));
    let (_history, outbox) = open(folder.path());
    let arrived = Arrived::default();
    outbox.serve("a", POLICY, arrived.deliver());
    until("it", || outbox.standing("a").delivered == 1).await;
    assert_eq!(arrived.subjects(), ["late"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_more_than_can_wait_the_oldest_are_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let (history, outbox) = open(folder.path());
    outbox.serve("a", POLICY, Arc::new(|_| Err(Failure::for_now("away"))));
    for number in 0..WAITING + 3 {
        let promise = outbox.promise("a", &number.to_string(), String::new());
        assert!(history.put(promise.changes()));
        outbox.release(vec![promise]);
    }
    assert_eq!(outbox.standing("a").waiting, WAITING);
    assert_eq!(outbox.standing("a").failed, 3);
    let failed = outbox.deliveries(None, Some(Progress::Failed), None, 9);
    let mut subjects: Vec<_> = failed.unwrap().into_iter().map(|it| it.subject).collect();
    subjects.sort();
    assert_eq!(subjects, ["1", "2", "3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_only_offered_is_tried_once_and_not_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let (_history, outbox) = open(folder.path());
    outbox.serve("a", POLICY, Arc::new(|_| Err(Failure::for_now("away"))));
    outbox.offer("a", "offered", String::new());
    until("a try", || outbox.standing("a").failed == 1).await;
    assert_eq!(outbox.standing("a").waiting, 0);
    assert_eq!(outbox.deliveries(None, None, None, 9).unwrap(), []);
}
