use super::*;
use crate::ring::tests::Driver;

/// A queue in which `n` requests were taken.
fn taken(n: u16) -> (Queue, Arc<Inflight>, Arc<GuestMemory>, Layout, u64) {
    let mut driver = Driver::new();
    (0..n).for_each(|h| driver.offer(h));
    let (memory, layout) = (Arc::new(driver.memory), driver.layout);
    let inflight = Arc::new(Inflight::new().unwrap());
    let queue = Queue::new(1, inflight.clone());
    let (epoch, again) = queue.start(layout, memory.clone(), None, false).unwrap();
    assert!(again.is_empty());
    for h in 0..n {
        assert_eq!(queue.take(epoch), Ok(Ok(Some(h))));
    }
    (queue, inflight, memory, layout, epoch)
}

#[test]
fn what_is_unanswered_when_it_stops_is_done_again() {
    let (queue, _, memory, layout, epoch) = taken(4);
    queue.pin(epoch).unwrap().answer(2, 0).unwrap();
    assert_eq!(queue.stop(), Some(4));
    assert!(queue.pin(epoch).is_none(), "a late answer finds no way in");
    let (again_epoch, again) = queue.start(layout, memory, None, false).unwrap();
    assert_ne!(epoch, again_epoch);
    assert!(queue.pin(epoch).is_none(), "also after it has started again");
    assert_eq!(again, [0, 1, 3]);
    queue.pin(again_epoch).unwrap().answer(0, 0).unwrap();
    assert_eq!(queue.take(again_epoch), Ok(Ok(None)));
}

#[test]
fn a_new_process_continues_where_the_old_one_died() {
    let (queue, inflight, memory, layout, epoch) = taken(5);
    queue.pin(epoch).unwrap().answer(1, 0).unwrap();
    // The process is gone; its record and the guest's memory are not.
    let next = Queue::new(1, Arc::new(Inflight::open(inflight.file().try_clone().unwrap()).unwrap()));
    let (epoch, again) = next.start(layout, memory, None, false).unwrap();
    assert_eq!(again, [0, 2, 3, 4]);
    assert_eq!(next.take(epoch), Ok(Ok(None)), "what was taken is not taken twice");
}

#[test]
fn a_device_that_was_reset_has_nothing_to_do_again() {
    let (queue, inflight, memory, layout, _) = taken(3);
    assert_eq!(queue.stop(), Some(3));
    assert_eq!(agree(&inflight, 1, &layout, &memory, Some(3)).unwrap(), [0, 1, 2], "cont");
    assert!(agree(&inflight, 1, &layout, &memory, Some(0)).unwrap().is_empty(), "reset");
    assert!(inflight.unanswered(1, 0).is_empty());
}

#[test]
fn stopping_waits_for_who_touches_the_guests_memory() {
    let (queue, _, _, _, epoch) = taken(1);
    let pin = queue.pin(epoch).unwrap();
    std::thread::scope(|s| {
        let stopping = s.spawn(|| queue.stop());
        while !locked(&queue.state).stopping {
            std::thread::yield_now();
        }
        assert!(!stopping.is_finished());
        pin.answer(0, 0).unwrap();
        drop(pin);
        assert_eq!(stopping.join().unwrap(), Some(1));
    });
}

#[test]
fn a_request_made_twice_at_once_breaks_the_queue() {
    let mut driver = Driver::new();
    driver.offer(3);
    driver.offer(3);
    let queue = Queue::new(1, Arc::new(Inflight::new().unwrap()));
    let (epoch, _) = queue.start(driver.layout, Arc::new(driver.memory), None, false).unwrap();
    assert_eq!(queue.take(epoch), Ok(Ok(Some(3))));
    assert_eq!(queue.take(epoch), Ok(Err(Broken::Twice(3))));
}
