//! What must hold of campaigns: each contact is taken once and dialled at most once for each attempt, none is left, and no
//! campaign exceeds its own limits.

use std::collections::{BTreeMap, HashMap};

use super::{Evidence, Row, Verdict, Violation, cap, named, rate};

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

        let mut of_contact: BTreeMap<&str, u64> = BTreeMap::new();
        for row in dials.iter().filter_map(|dial| row_of(&dial.custom_field)) {
            // The key names the contact and the attempt.
            let contact = row.key.split_once(':').map_or(row.key.as_str(), |(contact, _)| contact);
            *of_contact.entry(contact).or_default() += 1;
        }
        for (contact, dials) in of_contact.into_iter().filter(|(_, dials)| *dials > campaign.attempts) {
            verdict.violations.push(Violation::TooOften {
                contact: contact.to_owned(),
                dials,
                allowed: campaign.attempts,
            });
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
