//! What is looked at and how, and what keys make of it. Pure.

use std::time::Duration;

use super::options::{INTERVAL_MAX, INTERVAL_MIN};

/// One of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    /// Databases.
    Pools,
    /// Clients that wait.
    Waiting,
    /// Queries that run.
    Running,
    /// Statements by their fingerprint.
    Statements,
}

impl View {
    /// All, in their order.
    pub(super) const ALL: [View; 4] = [View::Pools, View::Waiting, View::Running, View::Statements];

    /// As it is called on the screen.
    pub(super) fn name(self) -> &'static str {
        match self {
            View::Pools => "pools",
            View::Waiting => "waiting",
            View::Running => "running",
            View::Statements => "statements",
        }
    }

    /// The column that it is sorted by at first, which is the one that tells of trouble.
    fn first_sort(self) -> Sort {
        Sort {
            column: match self {
                View::Pools => 3,
                View::Waiting => 5,
                View::Running => 6,
                View::Statements => 2,
            },
            descending: true,
        }
    }

    fn number(self) -> usize {
        View::ALL.iter().position(|view| *view == self).unwrap_or(0)
    }
}

/// By what rows are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sort {
    /// The column's number.
    pub(super) column: usize,
    /// The largest first.
    pub(super) descending: bool,
}

/// What the person in front of it has chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    /// What is looked at.
    pub(super) view: View,
    sorts: [Sort; 4],
    /// Rows that have been scrolled over.
    pub(super) scrolled: usize,
    /// One line for each role of a database.
    pub(super) by_user: bool,
    /// From one picture to the next.
    pub(super) interval: Duration,
    /// Nothing new is asked for.
    pub(super) frozen: bool,
    /// The help is shown.
    pub(super) help: bool,
    /// Only rows that have this in them.
    pub(super) filter: String,
    /// It is being typed.
    pub(super) typing: bool,
}

/// What a key leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Another picture of what is known.
    Redraw,
    /// Something else has to be asked.
    Ask,
    /// The end.
    Quit,
    /// To the background, as by Ctrl-Z.
    Suspend,
}

/// A key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Char(char),
    Control(char),
    Enter,
    Escape,
    Backspace,
    Tab,
    BackTab,
    Up,
    Down,
    Left,
    Right,
    PageUp,
    PageDown,
    Home,
    End,
}

impl Choice {
    pub(super) fn new(interval: Duration) -> Choice {
        Choice {
            view: View::Pools,
            sorts: View::ALL.map(View::first_sort),
            scrolled: 0,
            by_user: false,
            interval,
            frozen: false,
            help: false,
            filter: String::new(),
            typing: false,
        }
    }

    /// The same, for another view.
    pub(super) fn of(mut self, view: View) -> Choice {
        self.view = view;
        self.scrolled = 0;
        self
    }

    /// How the view is sorted.
    pub(super) fn sort(&self) -> Sort {
        let sort = self.sorts.get(self.view.number()).copied();
        sort.unwrap_or(self.view.first_sort())
    }

    fn change_sort(&mut self, change: impl FnOnce(&mut Sort)) -> Effect {
        if let Some(sort) = self.sorts.get_mut(self.view.number()) {
            change(sort);
        }
        self.scrolled = 0;
        Effect::Redraw
    }

    fn look_at(&mut self, view: View) -> Effect {
        (self.view, self.scrolled, self.help) = (view, 0, false);
        Effect::Ask
    }

    fn turn(&mut self, by: usize) -> Effect {
        let next = (self.view.number() + by) % View::ALL.len();
        let view = View::ALL.get(next).copied();
        self.look_at(view.unwrap_or(View::Pools))
    }

    fn last_longer(&mut self, times: f64) -> Effect {
        let interval = self.interval.mul_f64(times);
        self.interval = interval.clamp(INTERVAL_MIN, INTERVAL_MAX);
        Effect::Ask
    }

    fn scroll(&mut self, to: usize) -> Effect {
        self.scrolled = to;
        Effect::Redraw
    }

    /// What a key does. `page`: rows that fit on the screen; `columns` of the view.
    pub(super) fn press(&mut self, key: Key, page: usize, columns: usize) -> Effect {
        if let Key::Control('c') = key {
            return Effect::Quit;
        }
        if let Key::Control('z') = key {
            return Effect::Suspend;
        }
        if self.typing {
            return self.type_filter(key);
        }
        if self.help {
            self.help = false;
            return match key {
                Key::Char('q') => Effect::Quit,
                _ => Effect::Redraw,
            };
        }
        let last = columns.saturating_sub(1);
        match key {
            Key::Char('q') => Effect::Quit,
            Key::Char('h' | '?') => {
                self.help = true;
                Effect::Redraw
            }
            Key::Char('1' | 'p') => self.look_at(View::Pools),
            Key::Char('2' | 'w') => self.look_at(View::Waiting),
            Key::Char('3' | 'a') => self.look_at(View::Running),
            Key::Char('4' | 's') => self.look_at(View::Statements),
            Key::Tab => self.turn(1),
            Key::BackTab => self.turn(View::ALL.len() - 1),
            Key::Right | Key::Char('>') => self.change_sort(|sort| {
                sort.column = if sort.column >= last {
                    0
                } else {
                    sort.column + 1
                };
            }),
            Key::Left | Key::Char('<') => self.change_sort(|sort| {
                sort.column = sort.column.checked_sub(1).unwrap_or(last).min(last);
            }),
            Key::Char('r') => self.change_sort(|sort| sort.descending = !sort.descending),
            Key::Char('u') => {
                (self.by_user, self.scrolled) = (!self.by_user, 0);
                Effect::Redraw
            }
            Key::Char('+') => self.last_longer(0.5),
            Key::Char('-') => self.last_longer(2.0),
            Key::Char(' ') => {
                self.frozen = !self.frozen;
                Effect::Ask
            }
            Key::Char('/') => {
                self.typing = true;
                Effect::Redraw
            }
            Key::Escape => {
                self.filter.clear();
                Effect::Redraw
            }
            Key::Char('k') | Key::Up => self.scroll(self.scrolled.saturating_sub(1)),
            Key::Char('j') | Key::Down => self.scroll(self.scrolled.saturating_add(1)),
            Key::PageUp => self.scroll(self.scrolled.saturating_sub(page)),
            Key::PageDown => self.scroll(self.scrolled.saturating_add(page)),
            Key::Home => self.scroll(0),
            Key::End => self.scroll(usize::MAX),
            _ => Effect::Redraw,
        }
    }

    fn type_filter(&mut self, key: Key) -> Effect {
        match key {
            Key::Enter => self.typing = false,
            Key::Escape => {
                self.typing = false;
                self.filter.clear();
            }
            Key::Backspace => _ = self.filter.pop(),
            Key::Char(letter) if self.filter.len() < 60 => self.filter.push(letter),
            _ => {}
        }
        self.scrolled = 0;
        Effect::Redraw
    }
}

/// Takes the keys out of what a terminal has sent. What a key has begun with and is not whole yet is taken for what it is: terminals
/// send the bytes of a key together.
pub(super) fn keys(bytes: &[u8]) -> Vec<Key> {
    const SEQUENCES: [(&[u8], Key); 15] = [
        (b"\x1b[A", Key::Up),
        (b"\x1bOA", Key::Up),
        (b"\x1b[B", Key::Down),
        (b"\x1bOB", Key::Down),
        (b"\x1b[C", Key::Right),
        (b"\x1bOC", Key::Right),
        (b"\x1b[D", Key::Left),
        (b"\x1bOD", Key::Left),
        (b"\x1b[5~", Key::PageUp),
        (b"\x1b[6~", Key::PageDown),
        (b"\x1b[H", Key::Home),
        (b"\x1b[1~", Key::Home),
        (b"\x1b[F", Key::End),
        (b"\x1b[4~", Key::End),
        (b"\x1b[Z", Key::BackTab),
    ];
    let mut keys = Vec::new();
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        let known = SEQUENCES.iter().find(|(bytes, _)| rest.starts_with(bytes));
        if let Some((bytes, key)) = known {
            keys.push(*key);
            rest = rest.get(bytes.len()..).unwrap_or_default();
            continue;
        }
        rest = after;
        keys.push(match first {
            b'\r' | b'\n' => Key::Enter,
            b'\t' => Key::Tab,
            0x7f | 0x08 => Key::Backspace,
            0x1b => {
                // A sequence that means nothing here: up to its last byte.
                if let Some(inside) = rest.strip_prefix(b"[") {
                    let end = inside.iter().position(|byte| (0x40..0x7f).contains(byte));
                    rest = end
                        .and_then(|end| inside.get(end + 1..))
                        .unwrap_or_default();
                    continue;
                }
                Key::Escape
            }
            1..=26 => Key::Control(char::from(b'a' + first - 1)),
            0..0x20 => continue,
            _ => {
                let len = match first {
                    0xf0.. => 4,
                    0xe0.. => 3,
                    0xc0.. => 2,
                    _ => 1,
                };
                let whole = [
                    std::slice::from_ref(first),
                    rest.get(..len - 1).unwrap_or(rest),
                ]
                .concat();
                let text = std::str::from_utf8(&whole).ok();
                let Some(letter) = text.and_then(|text| text.chars().next()) else {
                    continue;
                };
                rest = rest.get(len - 1..).unwrap_or_default();
                Key::Char(letter)
            }
        });
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice() -> Choice {
        Choice::new(Duration::from_secs(2))
    }

    fn press(choice: &mut Choice, text: &[u8]) -> Option<Effect> {
        let pressed = keys(text).into_iter().map(|key| choice.press(key, 10, 8));
        pressed.last()
    }

    #[test]
    fn keys_are_what_terminals_send() {
        assert_eq!(
            keys(b"q\x1b[A\x1bOB\x1b[5~\x03\t\x1b[Z\r\x7f"),
            [
                Key::Char('q'),
                Key::Up,
                Key::Down,
                Key::PageUp,
                Key::Control('c'),
                Key::Tab,
                Key::BackTab,
                Key::Enter,
                Key::Backspace
            ]
        );
        assert_eq!(keys("ä€".as_bytes()), [Key::Char('ä'), Key::Char('€')]);
        assert_eq!(keys(b"\x1b"), [Key::Escape]);
        assert_eq!(keys(b"\x1b[15~q"), [Key::Char('q')], "F5 is nothing");
        assert_eq!(keys(b"\xff\xc3"), []);
    }

    #[test]
    fn keys_choose_the_view_its_order_and_its_pace() {
        let mut choice = choice();
        assert_eq!(press(&mut choice, b"2"), Some(Effect::Ask));
        assert_eq!(choice.view, View::Waiting);
        press(&mut choice, b"\t");
        assert_eq!(choice.view, View::Running);
        press(&mut choice, b"\x1b[Z\x1b[Z\x1b[Z");
        assert_eq!(choice.view, View::Statements);
        press(&mut choice, b"1>>r");
        assert_eq!(
            choice.sort(),
            Sort {
                column: 5,
                descending: false
            }
        );
        press(&mut choice, b"<<<<<<");
        assert_eq!(choice.sort().column, 7, "round the corner");
        press(&mut choice, b">");
        assert_eq!(choice.sort().column, 0);
        press(&mut choice, b"3");
        assert_eq!(
            choice.sort(),
            View::Running.first_sort(),
            "each view has its own"
        );
        press(&mut choice, b"+");
        assert_eq!(choice.interval, Duration::from_secs(1));
        press(&mut choice, b"++++++++");
        assert_eq!(choice.interval, INTERVAL_MIN);
        press(&mut choice, &[b'-'; 40]);
        assert_eq!(choice.interval, INTERVAL_MAX);
        assert_eq!(press(&mut choice, b" "), Some(Effect::Ask));
        assert!(choice.frozen);
        assert_eq!(press(&mut choice, b" "), Some(Effect::Ask));
        assert_eq!(press(&mut choice, b"q"), Some(Effect::Quit));
        assert_eq!(press(&mut choice, b"\x03"), Some(Effect::Quit));
        assert_eq!(press(&mut choice, b"\x1a"), Some(Effect::Suspend));
    }

    #[test]
    fn a_filter_is_typed() {
        let mut choice = choice();
        press(&mut choice, b"/shop q");
        assert!(choice.typing, "q is a letter now");
        assert_eq!(choice.filter, "shop q");
        press(&mut choice, b"\x7f\x7f\r");
        assert_eq!((&*choice.filter, choice.typing), ("shop", false));
        press(&mut choice, b"\x1b");
        assert_eq!(choice.filter, "");
        press(&mut choice, b"/x\x1b");
        assert_eq!((&*choice.filter, choice.typing), ("", false));
        press(&mut choice, b"/");
        assert_eq!(press(&mut choice, b"\x03"), Some(Effect::Quit));
    }

    #[test]
    fn any_key_ends_the_help() {
        let mut choice = choice();
        press(&mut choice, b"?");
        assert!(choice.help);
        press(&mut choice, b"r");
        assert!(
            !choice.help && choice.sort().descending,
            "and does nothing else"
        );
    }
}
