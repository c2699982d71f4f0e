//! Whether a call may be dialled now: the account's pace, the caps, and the number itself. Decides and does no IO; what it
//! decides from is read under the lock of the account's rate row (`store/queue`, `store/rates`).

use callbridge_proto::id::CallId;
use chrono::{DateTime, TimeDelta, Utc};

use crate::store::rates::Pace;

/// A dial may come this much before its turn, so that a dispatcher which is a little late now does not lose the time for good.
/// Far below the four seconds that the pace leaves to a sliding minute.
pub const EARLY: TimeDelta = TimeDelta::milliseconds(250);

/// What to do while the number is on another call of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenBusy {
    /// Wait until that call ended.
    Wait,
    /// Do not make the call.
    Refuse,
    /// Dial all the same.
    Allow,
}

impl WhenBusy {
    /// As the column `when_number_busy` and the API have it; what is not known waits.
    pub fn of(stored: i16) -> Self {
        match stored {
            2 => Self::Refuse,
            3 => Self::Allow,
            _ => Self::Wait,
        }
    }
}

/// Calls that may be active at one time; zero is no cap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Caps {
    /// Of the account.
    pub account: i64,
    /// Of these, slots that outbound calls leave to inbound ones.
    pub inbound_reserve: i64,
    /// Of the phone.
    pub phone: i64,
    /// Of the agent.
    pub agent: i64,
    /// Of the campaign.
    pub campaign: i64,
}

/// Another active call with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rival {
    /// The call.
    pub id: CallId,
    /// Its dial, from the same phone, has no outcome yet: two of these could not be told apart at Exotel.
    pub unresolved: bool,
}

/// How things stand, read in one snapshot under the account's lock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    /// Active calls of the account, both ways.
    pub account: i64,
    /// The inbound ones among them.
    pub inbound: i64,
    /// Active calls of the phone.
    pub phone: i64,
    /// Active calls of the agent, of any account.
    pub agent: i64,
    /// Active calls of the campaign.
    pub campaign: i64,
    /// Another call with the same number; an unresolved one first.
    pub rival: Option<Rival>,
    /// A call that is due, of this priority or above, waits for the same slots and could have them.
    pub ahead: bool,
}

/// Why a call waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waits {
    /// For the account's next turn, which comes then.
    Rate(DateTime<Utc>),
    /// For a slot of the account.
    AccountSlot,
    /// For a slot of the phone.
    PhoneSlot,
    /// For a slot of the agent.
    AgentSlot,
    /// For a slot of the campaign.
    CampaignSlot,
    /// Behind calls that were there before.
    Queue,
    /// For the outcome of another dial to the same number.
    NumberUnresolved(CallId),
    /// For the end of another call with the same number.
    NumberBusy(CallId),
    /// For a dial of this process to end.
    Process,
}

impl Waits {
    /// The stable word on rows and timelines.
    pub fn word(self) -> &'static str {
        match self {
            Self::Rate(_) => "rate",
            Self::AccountSlot => "account_capacity",
            Self::PhoneSlot => "phone_capacity",
            Self::AgentSlot => "agent_capacity",
            Self::CampaignSlot => "campaign_capacity",
            Self::Queue => "queue",
            Self::NumberUnresolved(_) => "same_number_unresolved",
            Self::NumberBusy(_) => "number_busy",
            Self::Process => "capacity",
        }
    }

    /// The call that is waited for.
    pub fn for_call(self) -> Option<CallId> {
        match self {
            Self::NumberUnresolved(id) | Self::NumberBusy(id) => Some(id),
            _ => None,
        }
    }

    /// Whether there is no room, as opposed to something about the number.
    pub fn is_for_room(self) -> bool {
        self.for_call().is_none()
    }
}

/// What to do with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Dial. The account's next turn is then.
    Dial {
        /// To be written to the rate row in the same transaction.
        next_turn: DateTime<Utc>,
    },
    /// Not yet.
    Wait(Waits),
    /// Not at all: the number is on this call and the caller does not want to wait.
    Refuse(CallId),
}

/// Decides. The number comes first: what it waits for is not a matter of room.
pub fn decide(pace: Pace, pause: TimeDelta, caps: Caps, standing: &Standing, busy: WhenBusy) -> Verdict {
    match (standing.rival, busy) {
        (Some(rival), WhenBusy::Refuse) => return Verdict::Refuse(rival.id),
        (Some(rival), _) if rival.unresolved => return Verdict::Wait(Waits::NumberUnresolved(rival.id)),
        (Some(rival), WhenBusy::Wait) => return Verdict::Wait(Waits::NumberBusy(rival.id)),
        (Some(_), WhenBusy::Allow) | (None, _) => {}
    }
    let full = |cap: i64, used: i64| cap > 0 && used >= cap;
    if full(caps.phone, standing.phone) {
        return Verdict::Wait(Waits::PhoneSlot);
    }
    if full(caps.agent, standing.agent) {
        return Verdict::Wait(Waits::AgentSlot);
    }
    if full(caps.campaign, standing.campaign) {
        return Verdict::Wait(Waits::CampaignSlot);
    }
    if full(caps.account, standing.account + reserved(caps, standing)) {
        return Verdict::Wait(Waits::AccountSlot);
    }
    if standing.ahead {
        return Verdict::Wait(Waits::Queue);
    }
    match turn(pace, pause) {
        Ok(next_turn) => Verdict::Dial { next_turn },
        Err(at) => Verdict::Wait(Waits::Rate(at)),
    }
}

/// Slots that no inbound call uses yet, and no outbound one may.
fn reserved(caps: Caps, standing: &Standing) -> i64 {
    (caps.inbound_reserve - standing.inbound).max(0)
}

/// How many more outbound calls could be active. None: there is no such cap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Room {
    /// By the account's cap, its inbound reserve left out.
    pub account: Option<i64>,
    /// By the phone's.
    pub phone: Option<i64>,
    /// By the agent's.
    pub agent: Option<i64>,
    /// By the campaign's.
    pub campaign: Option<i64>,
}

/// What the caps leave.
pub fn room(caps: Caps, standing: &Standing) -> Room {
    let left = |cap: i64, used: i64| (cap > 0).then(|| (cap - used).max(0));
    Room {
        account: left(caps.account, standing.account + reserved(caps, standing)),
        phone: left(caps.phone, standing.phone),
        agent: left(caps.agent, standing.agent),
        campaign: left(caps.campaign, standing.campaign),
    }
}

/// GCRA without a burst (ITU-T I.371): the turn after this one, or when this one comes.
pub fn turn(pace: Pace, pause: TimeDelta) -> Result<DateTime<Utc>, DateTime<Utc>> {
    let earliest = pace.next_at - EARLY;
    if pace.now < earliest {
        return Err(earliest);
    }
    Ok(pace.next_at.max(pace.now) + pause)
}

#[cfg(test)]
mod tests {
    use callbridge_proto::id::CallId;
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::store::rates::Kind;

    fn at(ms: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_790_000_000_000 + ms).unwrap()
    }

    fn idle() -> Pace {
        Pace {
            next_at: DateTime::UNIX_EPOCH,
            now: at(0),
        }
    }

    fn verdict(caps: Caps, standing: Standing, busy: WhenBusy) -> Verdict {
        decide(idle(), TimeDelta::seconds(1), caps, &standing, busy)
    }

    fn rival(unresolved: bool) -> Standing {
        Standing {
            rival: Some(Rival {
                id: CallId(Uuid::nil()),
                unresolved,
            }),
            ..Standing::default()
        }
    }

    #[test]
    fn two_unresolved_dials_to_one_number_cannot_coexist_whatever_the_caller_wants() {
        let id = CallId(Uuid::nil());
        for busy in [WhenBusy::Wait, WhenBusy::Allow] {
            let verdict = verdict(Caps::default(), rival(true), busy);
            assert_eq!(verdict, Verdict::Wait(Waits::NumberUnresolved(id)), "{busy:?}");
        }
        let refused = verdict(Caps::default(), rival(true), WhenBusy::Refuse);
        assert_eq!(refused, Verdict::Refuse(id));
    }

    #[test]
    fn a_number_on_a_known_call_is_the_callers_choice() {
        let id = CallId(Uuid::nil());
        let verdict = |busy| verdict(Caps::default(), rival(false), busy);
        assert_eq!(verdict(WhenBusy::Wait), Verdict::Wait(Waits::NumberBusy(id)));
        assert_eq!(verdict(WhenBusy::Refuse), Verdict::Refuse(id));
        assert!(matches!(verdict(WhenBusy::Allow), Verdict::Dial { .. }));
    }

    #[test]
    fn caps_leave_the_reserve_to_people_who_call_in() {
        let caps = Caps {
            account: 10,
            inbound_reserve: 3,
            ..Caps::default()
        };
        let with = |account, inbound| Standing {
            account,
            inbound,
            ..Standing::default()
        };
        let full = Verdict::Wait(Waits::AccountSlot);
        assert!(matches!(
            verdict(caps, with(6, 0), WhenBusy::Wait),
            Verdict::Dial { .. }
        ));
        assert_eq!(verdict(caps, with(7, 0), WhenBusy::Wait), full);
        // Two of the reserve are in use: one is left to keep free.
        assert!(matches!(
            verdict(caps, with(8, 2), WhenBusy::Wait),
            Verdict::Dial { .. }
        ));
        assert_eq!(verdict(caps, with(9, 2), WhenBusy::Wait), full);
        assert!(matches!(
            verdict(caps, with(9, 5), WhenBusy::Wait),
            Verdict::Dial { .. }
        ));
        assert_eq!(verdict(caps, with(10, 5), WhenBusy::Wait), full);
    }

    #[test]
    fn a_fresh_call_does_not_overtake() {
        let ahead = Standing {
            ahead: true,
            ..Standing::default()
        };
        let verdict = verdict(Caps::default(), ahead, WhenBusy::Allow);
        assert_eq!(verdict, Verdict::Wait(Waits::Queue));
    }

    proptest! {
        /// F113: whatever the moments at which dispatchers look, and however late each dial then is (up to three seconds), no
        /// sliding minute sees more than the limit.
        #[test]
        fn no_minute_sees_more_than_the_limit(
            limit in 1_i32..400,
            looks in prop::collection::vec((0_i64..3_000, 0_i64..3_000), 1..400),
        ) {
            let pause = Kind::Dial.pause(limit);
            let (mut next_at, mut now, mut sent) = (DateTime::UNIX_EPOCH, 0, Vec::new());
            for (wait, late) in looks {
                now += wait;
                if let Ok(next) = turn(Pace { next_at, now: at(now) }, pause) {
                    next_at = next;
                    sent.push(now + late);
                }
            }
            sent.sort_unstable();
            for (index, first) in sent.iter().enumerate() {
                let within = sent[index..].iter().take_while(|at| *at - first < 60_000).count();
                prop_assert!(within <= usize::try_from(limit).unwrap(), "{within} of {limit}");
            }
        }

        /// Whoever looks every 200 ms loses nothing of the rate.
        #[test]
        fn the_rate_is_reached(limit in 1_i32..280) {
            let pause = Kind::Dial.pause(limit);
            let (mut next_at, mut sent) = (at(0), 0_i64);
            for look in 0..5_000_i64 {
                if let Ok(next) = turn(Pace { next_at, now: at(look * 200) }, pause) {
                    next_at = next;
                    sent += 1;
                }
            }
            let possible = 1_000_000_000 / pause.num_microseconds().unwrap();
            prop_assert!((sent - possible).abs() <= 2, "{sent} of {possible}");
        }

        /// F112: whatever stands, a dial passes no cap, and there is room for it by what is told of the room.
        #[test]
        fn no_cap_is_ever_passed(
            caps in prop::array::uniform5(0_i64..20), used in 0_i64..25, parts in prop::array::uniform4(0_i64..25)
        ) {
            let [account, inbound_reserve, phone, agent, campaign] = caps;
            let caps = Caps { account, inbound_reserve, phone, agent, campaign };
            let [inbound, phone, agent, campaign] = parts;
            let inbound = inbound.min(used);
            let standing = Standing { account: used, inbound, phone, agent, campaign, ..Standing::default() };
            let room = room(caps, &standing);
            let each = [room.account, room.phone, room.agent, room.campaign];
            let fits = each.iter().flatten().all(|left| *left > 0);
            let dials = matches!(verdict(caps, standing, WhenBusy::Wait), Verdict::Dial { .. });
            prop_assert_eq!(dials, fits);
            if dials {
                prop_assert!(caps.account == 0 || used < caps.account);
                prop_assert!(caps.agent == 0 || agent < caps.agent);
            }
        }
    }
}
