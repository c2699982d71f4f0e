//! The person on the phone: turns a script into samples, keys and a hang-up. Ticks move it, in step with the play-out.

use std::{collections::VecDeque, sync::Arc};

use crate::{script::Step, wav::Clip};

/// From one key to the next.
const KEY_MS: u64 = 120;

/// Below this the bot counts as silent: room noise of synthetic speech stays well under it.
const AUDIBLE: u16 = 200;

/// A step with its speech loaded.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Speak(Arc<Clip>),
    Other(Step),
}

#[derive(Debug)]
enum Doing {
    Nothing,
    Speaking { samples: Vec<i16>, at: usize },
    Silent { left: usize },
    Pressing { keys: VecDeque<char>, wait: usize },
    Waiting { silent: usize, left: usize },
    Gone,
}

/// What one tick brought.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    /// As many samples as were asked for.
    pub(crate) samples: Vec<i16>,
    /// Keys pressed.
    pub(crate) keys: String,
    /// Whether the person hung up.
    pub(crate) hung_up: bool,
}

/// The person.
#[derive(Debug)]
pub(crate) struct Caller {
    rate: u32,
    acts: VecDeque<Act>,
    doing: Doing,
    /// Whether the bot was heard since the last wait for its end.
    heard: bool,
    /// Samples since the bot was last heard.
    quiet: usize,
}

impl Caller {
    pub(crate) fn new(acts: Vec<Act>) -> Self {
        Self {
            rate: 8_000,
            acts: acts.into(),
            doing: Doing::Nothing,
            heard: false,
            quiet: 0,
        }
    }

    /// Changes the sample rate, for the next stream. Speech that had begun is cut.
    pub(crate) fn set_rate(&mut self, rate: u32) {
        if rate != self.rate {
            self.rate = rate;
            self.quiet = 0;
            if matches!(self.doing, Doing::Speaking { .. }) {
                self.doing = Doing::Nothing;
            }
        }
    }

    /// Puts acts before what is left of the script.
    pub(crate) fn insert(&mut self, acts: Vec<Act>) {
        for act in acts.into_iter().rev() {
            self.acts.push_front(act);
        }
    }

    fn samples_in(&self, milliseconds: u64) -> usize {
        usize::try_from(u64::from(self.rate).saturating_mul(milliseconds) / 1_000).unwrap_or(usize::MAX)
    }

    fn begin(&mut self, act: Act) {
        self.doing = match act {
            Act::Speak(clip) => Doing::Speaking {
                samples: clip.at_rate(self.rate),
                at: 0,
            },
            // Speech is loaded before it comes here; what could not be loaded is skipped.
            Act::Other(Step::Speak(_)) => Doing::Nothing,
            Act::Other(Step::Silence(ms)) => Doing::Silent {
                left: self.samples_in(ms),
            },
            Act::Other(Step::Press(keys)) => Doing::Pressing {
                keys: keys.chars().collect(),
                wait: 0,
            },
            Act::Other(Step::WaitForAudioEnd { silent_ms, timeout_ms }) => Doing::Waiting {
                silent: self.samples_in(silent_ms),
                left: self.samples_in(timeout_ms),
            },
            Act::Other(Step::HangUp) => Doing::Gone,
        };
    }

    /// Moves on by so many samples, in which `heard` came from the bot.
    pub(crate) fn tick(&mut self, heard: &[i16]) -> Said {
        let count = heard.len();
        if heard.iter().any(|sample| sample.unsigned_abs() > AUDIBLE) {
            self.heard = true;
            self.quiet = 0;
        } else {
            self.quiet = self.quiet.saturating_add(count);
        }
        let key_pause = self.samples_in(KEY_MS);
        let mut said = Said {
            samples: Vec::with_capacity(count),
            ..Said::default()
        };
        while said.samples.len() < count {
            let room = count - said.samples.len();
            let done = match &mut self.doing {
                Doing::Nothing => true,
                Doing::Speaking { samples, at } => {
                    let take = (samples.len() - *at).min(room);
                    said.samples.extend_from_slice(&samples[*at..*at + take]);
                    *at += take;
                    *at == samples.len()
                }
                Doing::Silent { left } => {
                    let take = (*left).min(room);
                    said.samples.resize(said.samples.len() + take, 0);
                    *left -= take;
                    *left == 0
                }
                Doing::Pressing { keys, wait } => {
                    let take = (*wait).min(room);
                    said.samples.resize(said.samples.len() + take, 0);
                    *wait -= take;
                    if *wait == 0
                        && let Some(key) = keys.pop_front()
                    {
                        said.keys.push(key);
                        *wait = key_pause;
                    }
                    *wait == 0
                }
                Doing::Waiting { silent, left } => {
                    let over = self.heard && self.quiet >= *silent;
                    if over {
                        self.heard = false;
                    }
                    let take = if over { 0 } else { (*left).min(room) };
                    said.samples.resize(said.samples.len() + take, 0);
                    *left -= take;
                    over || *left == 0
                }
                Doing::Gone => {
                    said.hung_up = true;
                    said.samples.resize(count, 0);
                    false
                }
            };
            if done {
                if let Some(act) = self.acts.pop_front() {
                    self.begin(act);
                } else {
                    self.doing = Doing::Nothing;
                    said.samples.resize(count, 0);
                }
            }
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::{Act, Caller, Said};
    use crate::{script::Step, wav::Clip};

    const QUIET: [i16; 160] = [0; 160];
    const LOUD: [i16; 160] = [4_000; 160];

    fn speak(samples: usize) -> Act {
        Act::Speak(Arc::new(Clip {
            rate: 8_000,
            samples: vec![9; samples],
        }))
    }

    #[test]
    fn does_its_steps_one_after_the_other() {
        let acts = vec![
            speak(200),
            Act::Other(Step::Silence(10)),
            Act::Other(Step::Press("5#".to_owned())),
            Act::Other(Step::HangUp),
        ];
        let mut caller = Caller::new(acts);
        let (mut samples, mut keys, mut ticks) = (Vec::new(), String::new(), 0);
        loop {
            let said = caller.tick(&QUIET);
            samples.extend(said.samples);
            keys.push_str(&said.keys);
            ticks += 1;
            if said.hung_up {
                break;
            }
        }
        assert_eq!(&samples[..280], [vec![9; 200], vec![0; 80]].concat());
        assert_eq!(keys, "5#");
        // 25 ms of speech, 10 ms of silence, twice 120 ms for the keys.
        assert_eq!(ticks, 14);
    }

    #[test]
    fn waits_for_the_end_of_the_bot_s_speech() {
        let wait = Act::Other(Step::WaitForAudioEnd {
            silent_ms: 60,
            timeout_ms: 10_000,
        });
        let mut caller = Caller::new(vec![wait, speak(160)]);
        for _ in 0..20 {
            assert_eq!(caller.tick(&QUIET).samples, QUIET, "nothing was said yet");
        }
        caller.tick(&LOUD);
        caller.tick(&QUIET);
        assert_eq!(caller.tick(&QUIET).samples, QUIET, "40 ms are not 60");
        assert_eq!(caller.tick(&QUIET).samples, [9; 160]);
    }

    #[test]
    fn gives_up_waiting() {
        let wait = Act::Other(Step::WaitForAudioEnd {
            silent_ms: 60,
            timeout_ms: 40,
        });
        let mut caller = Caller::new(vec![wait, Act::Other(Step::HangUp)]);
        assert!(!caller.tick(&QUIET).hung_up);
        assert!(!caller.tick(&QUIET).hung_up);
        assert!(caller.tick(&QUIET).hung_up);
    }

    #[test]
    fn added_steps_come_first() {
        let mut caller = Caller::new(vec![Act::Other(Step::Silence(1_000))]);
        caller.insert(vec![Act::Other(Step::Press("1".to_owned())), speak(160)]);
        assert_eq!(
            caller.tick(&QUIET),
            Said {
                samples: vec![0; 160],
                keys: "1".to_owned(),
                hung_up: false
            }
        );
    }

    proptest! {
        #[test]
        fn every_tick_has_its_length(lengths in proptest::collection::vec((0_u64..300, 0_usize..900), 0..12), tick in 1_usize..400) {
            let mut acts = Vec::new();
            let mut spoken = 0;
            for (silence, speech) in lengths {
                acts.push(Act::Other(Step::Silence(silence)));
                acts.push(speak(speech));
                spoken += speech;
            }
            let mut caller = Caller::new(acts);
            let mut heard = 0;
            let bot = vec![0_i16; tick];
            for _ in 0..(400 * 100 / tick + 200) {
                let said = caller.tick(&bot);
                prop_assert_eq!(said.samples.len(), tick);
                heard += said.samples.iter().filter(|sample| **sample == 9).count();
            }
            prop_assert_eq!(heard, spoken);
        }
    }
}
