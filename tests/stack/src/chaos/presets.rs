//! What is chosen for all runs: accounts, and settings that make windows short.

/// The accounts: calls at one time, and connects a minute. Some have so little room that calls wait; most have the most that
/// can be set.
pub(super) const ACCOUNTS: [(u32, u32); 8] = [
    (0, 6_000),
    (0, 6_000),
    (0, 6_000),
    (12, 6_000),
    (6, 6_000),
    (3, 6_000),
    (4, 6_000),
    (0, 1_200),
];

/// The account of campaigns: a rate at which its cap is reached now and then.
pub(super) const ACCOUNT_OF_CAMPAIGNS: [(u32, u32); 1] = [(24, 6_000)];

/// The account of people who talk: nothing holds their calls up.
pub(super) const ACCOUNT_OF_TALK: [(u32, u32); 1] = [(0, 6_000)];

/// Streams that its account may have at Exotel: more than this machine can.
pub(super) const MANY_STREAMS: u32 = 10_000;

/// Of the edge while people talk: they may finish.
pub(super) const PATIENT: [(&str, &str); 2] = [("EDGE_DRAIN_SECONDS", "60"), ("EDGE_ACCEPT_SECONDS", "1")];
/// Of call-service then: what is believed dead after some time has that time.
pub(super) const PATIENT_CALLS: [(&str, &str); 3] = [
    // Longer than from one heartbeat of the edge to the next (10 s).
    ("ATTACH_LEASE", "12s"),
    // Longer than the edge's longest pause before it attaches again (3 s).
    ("ATTACH_GRACE", "4s"),
    ("DRAIN_TIMEOUT", "20s"),
];

/// What makes windows short, so that nothing waits for real ones.
pub(super) const SHORT: [(&str, &str); 11] = [
    ("SWEEP_AFTER", "2s"),
    ("SETTLE_WINDOW", "6s"),
    ("POLL_INTERVAL", "50ms"),
    ("READ_BACK_STEPS", "500ms,1s,2s,3s,5s,5s,5s"),
    ("READ_BACK_LEASE", "3s"),
    ("ATTACH_LEASE", "3s"),
    ("ATTACH_RENEW", "500ms"),
    ("ATTACH_GRACE", "2s"),
    ("DRAIN_TIMEOUT", "3s"),
    ("DB_POOL_SIZE", "10"),
    // One caller places all calls of a day in some minutes.
    ("DIAL_DAILY_CALLS", "0"),
];
