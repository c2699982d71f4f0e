use tonic::transport::Endpoint;

use super::*;

fn add(pool: &Pool, endpoint: &str) -> Lease {
    let channel = Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
    pool.add(endpoint, channel, Room::of(3))
}

fn good(pool: &Pool, endpoint: &str) -> Lease {
    let lease = add(pool, endpoint);
    lease.is_good(true);
    lease
}

#[tokio::test]
async fn a_connection_is_shared_as_far_as_it_has_room_once_it_is_good() {
    let pool = Pool::new(100);
    let first = add(&pool, "a");
    assert!(pool.take("a").is_none(), "nobody has answered");
    first.is_good(true);
    assert!(pool.take("b").is_none(), "another endpoint");
    let others = [pool.take("a"), pool.take("a")].map(Option::unwrap);
    assert!(others.iter().all(|lease| lease.id == first.id));
    assert!(pool.take("a").is_none(), "three at most");
    drop(first);
    assert!(pool.take("a").is_some());

    let pool = Pool::new(1);
    let only = good(&pool, "a");
    assert!(pool.take("a").is_none(), "the setting says one");
    drop(only);
    assert!(pool.take("a").is_some());
}

#[tokio::test]
async fn many_streams_are_spread_over_a_few_connections() {
    let pool = Pool::new(40);
    let mut leases = Vec::new();
    for (streams, connections) in [(8, 1), (32, 4), (160, 5), (200, 5)] {
        while leases.len() < streams {
            leases.push(pool.take("a").unwrap_or_else(|| {
                let channel = Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
                let lease = pool.add("a", channel, Room::of(1000));
                lease.is_good(true);
                lease
            }));
        }
        assert_eq!(pool.lock().all.len(), connections, "{streams} streams");
    }
}

#[tokio::test]
async fn the_fullest_connection_is_filled_first() {
    let pool = Pool::new(100);
    let (one, two) = (good(&pool, "a"), good(&pool, "a"));
    let second = pool.take("a").unwrap();
    let third = pool.take("a").unwrap();
    assert_eq!(second.id, third.id);
    let other = pool.take("a").unwrap();
    assert_ne!(other.id, third.id);
    drop((one, two));
}

#[tokio::test(start_paused = true)]
async fn idle_connections_are_few_and_not_kept_for_long() {
    let pool = Pool::new(100);
    for endpoint in 0..20 {
        let endpoint = endpoint.to_string();
        let leases: Vec<_> = (0..10).map(|_| good(&pool, &endpoint)).collect();
        drop(leases);
        assert!(pool.lock().all.iter().filter(|c| c.endpoint == endpoint).count() <= WARM_EACH);
    }
    assert_eq!(pool.lock().all.len(), WARM_ALL);
    let busy = good(&pool, "busy");
    tokio::time::advance(WARM_FOR).await;
    assert!(pool.take("0").is_none());
    assert_eq!(pool.lock().all.len(), 1);
    drop(busy);
    assert!(pool.take("busy").is_some());
}

/// F71: a stream that ended unread keeps its part of the connection's window at the agent: a connection ends before that
/// can be all of it.
#[tokio::test(start_paused = true)]
async fn an_old_connection_serves_its_streams_and_no_new_ones() {
    let pool = Pool::new(100);
    let first = good(&pool, "a");
    tokio::time::advance(YOUNG_FOR.checked_sub(Duration::from_millis(1)).unwrap()).await;
    let last = pool.take("a").unwrap();
    tokio::time::advance(Duration::from_millis(1)).await;
    assert!(pool.take("a").is_none());
    drop(first);
    assert_eq!(pool.lock().all.len(), 1, "it has a stream");
    drop(last);
    assert!(pool.lock().all.is_empty());
}

#[tokio::test]
async fn what_is_not_trusted_serves_its_streams_and_no_new_ones() {
    let pool = Pool::new(100);
    let leases = [good(&pool, "a"), good(&pool, "b")];
    pool.distrust("a");
    assert!(pool.take("a").is_none());
    assert_eq!(pool.lock().all.len(), 2);
    drop(leases);
    assert!(pool.take("a").is_none());
    assert!(pool.take("b").is_some());
    drop(add(&pool, "c"));
    assert_eq!(pool.lock().all.len(), 1, "nobody has ever answered on it");
}
