use callbridge_proto::agent::v1::{Audio, AudioFormat, Dtmf, GreetingEnded, MarkPlayed, Message, Playout, Stop};
use proptest::prelude::*;

use super::*;

fn start(sample_rate: u32, greeting_ms: u32) -> Event {
    Event::Start(Start {
        audio_format: Some(AudioFormat { sample_rate }),
        greeting_ms,
        ..Start::default()
    })
}

fn audio(sample: i16, ms: u32) -> Event {
    Event::Audio(Audio {
        pcm: sample
            .to_le_bytes()
            .repeat(SampleRate::Khz8.samples(ms) as usize)
            .into(),
    })
}

fn key(digit: &str) -> Event {
    Event::Dtmf(Dtmf {
        digit: digit.to_owned(),
        duration_ms: 0,
    })
}

fn played(name: &str) -> Event {
    Event::MarkPlayed(MarkPlayed {
        name: name.to_owned(),
        cleared: false,
    })
}

fn message(json: &str) -> Event {
    Event::Message(Message { json: json.to_owned() })
}

fn say(conversation: &mut Conversation, event: Event) -> Vec<Action> {
    let answers = conversation.hear(ConverseRequest { event: Some(event) }).unwrap();
    answers.into_iter().filter_map(|answer| answer.action).collect()
}

/// A conversation of 8 kHz that echoes.
fn echoing() -> Conversation {
    let mut conversation = Conversation::new();
    say(&mut conversation, start(8_000, 500));
    say(
        &mut conversation,
        Event::GreetingEnded(GreetingEnded {
            played_ms: 500,
            interrupted: false,
        }),
    );
    conversation
}

fn spoken(actions: &[Action]) -> usize {
    actions
        .iter()
        .map(|action| {
            if let Action::Audio(audio) = action {
                audio.pcm.len() / 2
            } else {
                0
            }
        })
        .sum()
}

fn mark(actions: &[Action]) -> &str {
    let mark = actions.iter().find_map(|action| {
        if let Action::Mark(mark) = action {
            Some(&mark.name)
        } else {
            None
        }
    });
    mark.expect("a mark follows what is said")
}

fn generations(actions: &[Action]) -> Vec<u64> {
    let turns = actions.iter().filter_map(|a| {
        if let Action::Audio(audio) = a {
            Some(audio.generation)
        } else {
            None
        }
    });
    turns.collect()
}

fn metadata(actions: &[Action]) -> &HashMap<String, String> {
    let found = actions.iter().find_map(|a| {
        if let Action::Metadata(m) = a {
            Some(&m.entries)
        } else {
            None
        }
    });
    found.expect("the session is summed up")
}

#[test]
fn it_greets_at_every_rate_then_echoes_sample_for_sample() {
    for rate in [8_000, 16_000, 24_000] {
        let mut conversation = Conversation::new();
        let greeting = say(&mut conversation, start(rate, 0));
        assert_eq!(
            spoken(&greeting),
            Phrase::Greeting.samples(SampleRate::try_from(rate).unwrap()).len()
        );
        let transcript = greeting
            .iter()
            .find_map(|a| if let Action::Transcript(t) = a { Some(t) } else { None });
        assert_eq!(transcript.unwrap().text, Phrase::Greeting.text());
        assert_eq!(mark(&greeting), "greeting");
        assert!(
            say(&mut conversation, audio(100, 20)).is_empty(),
            "the echo does not overlap the greeting"
        );
        assert!(say(&mut conversation, played("greeting")).is_empty());
        let answers = say(&mut conversation, audio(-7, 20));
        let Action::Audio(echo) = &answers[0] else {
            panic!("{answers:?}")
        };
        assert_eq!(
            (&echo.pcm[..], echo.generation),
            (&(-7_i16).to_le_bytes().repeat(160)[..], 1)
        );
    }
}

#[test]
fn it_leaves_a_stored_greeting_alone_and_a_silent_one_out() {
    let mut conversation = Conversation::new();
    assert!(say(&mut conversation, start(8_000, 2_000)).is_empty());
    assert!(say(&mut conversation, audio(100, 20)).is_empty());
    say(
        &mut conversation,
        Event::GreetingEnded(GreetingEnded {
            played_ms: 2_000,
            interrupted: false,
        }),
    );
    assert_eq!(spoken(&say(&mut conversation, audio(100, 20))), 160);

    let Event::Start(mut quiet) = start(8_000, 0) else {
        unreachable!()
    };
    quiet.agent_config = r#"{"greet": false, "other": 1}"#.to_owned();
    let mut conversation = Conversation::new();
    assert!(say(&mut conversation, Event::Start(quiet)).is_empty());
    assert_eq!(spoken(&say(&mut conversation, audio(100, 20))), 160);
}

#[test]
fn a_caller_who_speaks_over_the_greeting_clears_it_and_is_echoed_from_the_first_sample() {
    for greeting_ms in [0, 2_000] {
        let mut conversation = Conversation::new();
        say(&mut conversation, start(8_000, greeting_ms));
        for _ in 0..4 {
            assert!(
                say(&mut conversation, audio(3_000, 20)).is_empty(),
                "80 ms are not speech yet"
            );
        }
        let answers = say(&mut conversation, audio(3_000, 20));
        assert_eq!(answers[0], Action::Clear(Clear { generation: 1 }));
        assert_eq!((spoken(&answers), generations(&answers)), (800, vec![2]));
        assert_eq!(
            generations(&say(&mut conversation, audio(0, 20))),
            [2],
            "and then all is echoed"
        );
        // What the edge says of the interrupted greeting comes later, and changes nothing.
        say(
            &mut conversation,
            Event::MarkPlayed(MarkPlayed {
                name: "greeting".to_owned(),
                cleared: true,
            }),
        );
        say(
            &mut conversation,
            Event::GreetingEnded(GreetingEnded {
                played_ms: 300,
                interrupted: true,
            }),
        );
        assert_eq!(spoken(&say(&mut conversation, audio(0, 20))), 160);
    }
}

#[test]
fn digits_are_said_back_one_after_the_other() {
    let mut conversation = echoing();
    let five = say(&mut conversation, key("5"));
    let six = say(&mut conversation, key("6"));
    let length = Phrase::YouPressed.samples(SampleRate::Khz8).len() + 1_600;
    assert_eq!((spoken(&five), spoken(&six)), (length, length));
    assert!(
        !six.iter().any(|action| matches!(action, Action::Clear(_))),
        "the first reply is played out"
    );
    say(&mut conversation, played(mark(&five)));
    assert!(
        say(&mut conversation, audio(1, 20)).is_empty(),
        "the second is still heard"
    );
    say(&mut conversation, played(mark(&six)));
    assert_eq!(spoken(&say(&mut conversation, audio(1, 20))), 160);
    assert!(say(&mut conversation, key("55")).is_empty() && say(&mut conversation, key("é")).is_empty());
}

#[test]
fn a_key_interrupts_the_greeting() {
    let mut conversation = Conversation::new();
    say(&mut conversation, start(8_000, 0));
    let answers = say(&mut conversation, key("1"));
    assert_eq!(answers[0], Action::Clear(Clear { generation: 1 }));
    assert!(generations(&answers).iter().all(|&turn| turn == 2));
}

#[test]
fn star_hangs_up_and_hash_goes_on_after_a_last_word() {
    for (event, wanted) in [
        (key("*"), LeaveAction::HangUp),
        (key("#"), LeaveAction::ContinueFlow),
        (message(r#"{"hang_up": true}"#), LeaveAction::HangUp),
    ] {
        let mut conversation = echoing();
        say(&mut conversation, audio(5, 20));
        let answers = say(&mut conversation, event);
        assert!(spoken(&answers) > 4_000);
        assert_eq!(metadata(&answers)["echo_frames"], "1");
        assert_eq!(metadata(&answers)["echo_ms"], "20");
        let Some(Action::Leave(leave)) = answers.last() else {
            panic!("{answers:?}")
        };
        assert_eq!(leave.action(), wanted);
        assert!(conversation.is_over());
        assert!(say(&mut conversation, audio(9_000, 200)).is_empty());
        assert!(
            say(&mut conversation, Event::Stop(Stop::default())).is_empty(),
            "summed up once"
        );
    }
}

#[test]
fn messages_are_honoured_and_foreign_ones_ignored() {
    let mut conversation = echoing();
    assert_eq!(
        spoken(&say(&mut conversation, message(r#"{"say_digits":"12 x3"}"#))),
        3 * 1_600
    );
    let long = format!(r#"{{"say_digits":"{}"}}"#, "7".repeat(1_000));
    assert_eq!(spoken(&say(&mut conversation, message(&long))), MAX_DIGITS * 1_600);
    for foreign in [
        "",
        "[]",
        "{",
        r#"{"say_digits": 5}"#,
        r#"{"digits": "5"}"#,
        r#"{"say_digits":""}"#,
    ] {
        assert!(say(&mut conversation, message(foreign)).is_empty(), "{foreign}");
    }
}

#[test]
fn a_session_that_cannot_begin_is_refused() {
    let hear = |conversation: &mut Conversation, event| conversation.hear(ConverseRequest { event: Some(event) });
    assert_eq!(hear(&mut Conversation::new(), audio(0, 20)), Err(Refused::NotStarted));
    assert_eq!(
        hear(&mut Conversation::new(), start(44_100, 0)),
        Err(Refused::SampleRate(44_100))
    );
    assert_eq!(
        hear(&mut Conversation::new(), Event::Start(Start::default())),
        Err(Refused::SampleRate(0))
    );
    assert_eq!(hear(&mut echoing(), start(8_000, 0)), Err(Refused::StartedTwice));
    assert_eq!(echoing().hear(ConverseRequest { event: None }), Ok(vec![]));
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (prop_oneof![Just(0_i16), Just(900), Just(9_000)], 0_u32..200).prop_map(|(level, ms)| audio(level, ms)),
        1 => "[0-9A-D]".prop_map(|digit| key(&digit)),
        1 => prop_oneof![Just("greeting"), Just("said-1"), Just("said-2"), Just("said-3")].prop_map(played),
        1 => any::<bool>().prop_map(|interrupted| Event::GreetingEnded(GreetingEnded { played_ms: 1, interrupted })),
        1 => any::<String>().prop_map(|json| message(&json)),
        1 => Just(message(r#"{"say_digits":"1"}"#)),
        1 => Just(Event::Playout(Playout::default())),
    ]
}

proptest! {
    /// Whatever happens: turns only grow, a Clear names the turn that it ends, no more is echoed than was heard, and the
    /// summary at the end tells how much that was.
    #[test]
    fn any_course_is_sane(greeting_ms in 0_u32..2, events in prop::collection::vec(any_event(), 0..60)) {
        let mut conversation = Conversation::new();
        say(&mut conversation, start(8_000, greeting_ms));
        let (mut generation, mut heard, mut echoed) = (1, 0, 0_u64);
        for event in events {
            let is_audio = if let Event::Audio(audio) = &event {
                heard += audio.pcm.len() as u64;
                true
            } else {
                false
            };
            for action in say(&mut conversation, event) {
                match action {
                    Action::Clear(clear) => {
                        prop_assert_eq!(clear.generation, generation);
                        generation += 1;
                    }
                    Action::Audio(audio) => {
                        prop_assert_eq!(audio.generation, generation);
                        echoed += if is_audio { audio.pcm.len() as u64 } else { 0 };
                    }
                    _ => {}
                }
            }
            prop_assert!(echoed <= heard);
        }
        let end = say(&mut conversation, Event::Stop(Stop::default()));
        prop_assert_eq!(&metadata(&end)["echo_ms"], &(echoed / 16).to_string());
        prop_assert!(conversation.is_over());
    }
}
