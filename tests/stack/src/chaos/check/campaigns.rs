//! What must hold of campaigns: each contact is taken once and dialled at most once for each attempt, never while it is on another
//! call or after it was reached, none is left, and no campaign exceeds its own limits.

use std::collections::{BTreeMap, HashMap};

use super::{Dial, Evidence, Row, Verdict, Violation, cap, named, rate};

/// A contact in one of these waits or has a call.
const OPEN: [&str; 2] = ["pending", "calling"];

pub(super) fn check(evidence: &Evidence, rows: &HashMap<&str, &Row>, verdict: &mut Verdict) {
    let row_of = |field: &Option<String>| named(field.as_deref()).and_then(|call| rows.get(call).copied());
    for (id, campaign) in &evidence.campaigns {
        let is_of = |field: &Option<String>| row_of(field).is_some_and(|row| row.campaign.as_ref() == Some(id));
        let dials: Vec<_> = evidence.dials.iter().filter(|dial| is_of(&dial.custom_field)).collect();
        cap(evidence, id, campaign.limits.concurrent, &dials, verdict);
        let posts = evidence.posts.iter().filter(|post| is_of(&post.custom_field));
        rate(id, campaign.limits.per_minute, posts.map(|post| post.time), verdict);

        let mut of_contact: BTreeMap<&str, Vec<(&Dial, &Row)>> = BTreeMap::new();
        for dial in &dials {
            let Some(row) = row_of(&dial.custom_field) else {
                continue;
            };
            // The key names the contact and the attempt.
            let contact = row.key.split_once(':').map_or(row.key.as_str(), |(contact, _)| contact);
            of_contact.entry(contact).or_default().push((dial, row));
        }
        for (contact, mut dials) in of_contact {
            let count = dials.len() as u64;
            if count > campaign.attempts {
                verdict.violations.push(Violation::TooOften {
                    contact: contact.to_owned(),
                    dials: count,
                    allowed: campaign.attempts,
                });
            }
            dials.sort_by_key(|(dial, _)| dial.time);
            once_more(evidence, contact, &dials, verdict);
        }

        let mut rows = 0;
        for ((_, state), count) in evidence.contacts.iter().filter(|((of, _), _)| of == id) {
            rows += count;
            if OPEN.contains(&state.as_str()) {
                verdict.violations.push(Violation::ContactsLeft {
                    campaign: id.clone(),
                    state: state.clone(),
                    count: *count,
                });
            }
        }
        if rows != campaign.contacts {
            verdict.violations.push(Violation::ContactsLost {
                campaign: id.clone(),
                rows,
                sent: campaign.contacts,
            });
        }
    }
}

/// Finds a contact that was dialled while it was on another call, or after it was reached. The dials are in their order.
fn once_more(evidence: &Evidence, contact: &str, dials: &[(&Dial, &Row)], verdict: &mut Verdict) {
    for two in dials.windows(2) {
        let [(before, earlier), (dial, row)] = two else {
            continue;
        };
        let goes_on = evidence.ends.get(&before.call_sid).is_none_or(|end| *end > dial.time);
        if goes_on || earlier.state == "completed" {
            verdict.violations.push(Violation::OnceMore {
                contact: contact.to_owned(),
                first: earlier.call.clone(),
                second: row.call.clone(),
                at: dial.time,
            });
        }
    }
}
