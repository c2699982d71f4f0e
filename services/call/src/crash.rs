//! The crash points of this process (`runtime::crash`): the places of the dial protocol (design §5.2) between which a death
//! must change nothing.

pub use runtime::crash::point;

/// A new call's transaction is open.
pub const PLACE_BEFORE_COMMIT: &str = "place_before_commit";
/// A new call is committed and waits.
pub const QUEUED_COMMITTED: &str = "queued_committed";
/// A new call's claim and intent are committed; nothing is sent.
pub const FRESH_COMMITTED: &str = "fresh_committed";
/// A waiting call's claim and intent are committed; nothing is sent.
pub const CLAIM_COMMITTED: &str = "claim_committed";
/// The POST begins. With a delay the process dies in the middle of it.
pub const POSTING: &str = "posting";
/// Exotel has answered; nothing of it is committed.
pub const ANSWERED: &str = "answered";
/// The dial's outcome is committed.
pub const OUTCOME_COMMITTED: &str = "outcome_committed";
/// A dial without an outcome is about to be swept.
pub const SWEEPING: &str = "sweeping";
/// It is swept.
pub const SWEPT: &str = "swept";
/// Exotel's list was read about an unconfirmed dial; nothing of it is committed.
pub const SETTLING: &str = "settling";
/// An unconfirmed dial is settled, or one more poll is counted.
pub const SETTLED: &str = "settled";
/// Exotel was asked how calls stand; nothing of its answer is committed.
pub const READ_BACK: &str = "read_back";
/// A callback is kept and not applied.
pub const CALLBACK_KEPT: &str = "callback_kept";
/// A callback is applied; the edge has no answer.
pub const CALLBACK_APPLIED: &str = "callback_applied";

/// All of them.
pub const POINTS: [&str; 14] = [
    PLACE_BEFORE_COMMIT,
    QUEUED_COMMITTED,
    FRESH_COMMITTED,
    CLAIM_COMMITTED,
    POSTING,
    ANSWERED,
    OUTCOME_COMMITTED,
    SWEEPING,
    SWEPT,
    SETTLING,
    SETTLED,
    READ_BACK,
    CALLBACK_KEPT,
    CALLBACK_APPLIED,
];
