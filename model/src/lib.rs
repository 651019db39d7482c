//! An exhaustive model of what D7–D9 decide: leases, acquisitions, conditions, lives of a session,
//! revocations. It is checked with stateright and shares no code with the product: it models the
//! rules, not their implementation, so that a rule that is wrong is found even where the code follows
//! it to the letter.
//!
//! # What is in it
//!
//! - **Clients** (`client`): up to three instances of two sessions, `S` and `T`, with up to three
//!   acquisitions each, of two names, `a` and `z`: waiting, trying, re-entering, reclaiming,
//!   claiming, asking, agreeing anew, giving back, crashing. A client believes to hold while its own
//!   count from the sending of the echoed attempt lasts. That belief is the oracle: the log must back
//!   every one (`properties`), which is stronger than that no two of them meet.
//! - **The network**: a message arrives at any time, in any order, never, or twice within the
//!   scenario's number of duplicates. Two gateways take the attempts of a client in turn; since
//!   they keep no state that answers anything (D7), all that they can do is to reorder, delay,
//!   lose and repeat, and the model's network does more of that than two ordered streams could. A
//!   gateway may cut a keepalive in two after a split, and may know the old route or the new one.
//! - **Leaders** (`leader`): receipt, renewal, ReadIndex, scan, proposals in order, and the time
//!   between each of them. A message that is received after its leader was superseded is a lost one.
//! - **The log**: what apply does to the queue and for acquisitions (`table`), how holds end and are
//!   taken back (`ending`), what clients agree about them, the times that this sets, and revocations
//!   (`agree`). A condition is `hold`, claimed or not yet;
//!   `max_hold` with `ask_holder`; or neither. A hold that its client has agreed to may have a
//!   lease that is longer than others.
//! - **Operators**: they take single holds away, and revoke session `S` range by range, whatever it
//!   has just then.
//! - **Failover and split** (`failover`): see there for what Raft is trusted with. A new leader
//!   inherits any prefix of what its predecessor had proposed; the predecessor goes on for ever,
//!   and what its clock finds due may reach the new leader's log, which is more than Raft and D2
//!   let it do. A split is applied by the child's leader first, and by the parent's at any later time.
//!
//! # Time
//!
//! Time is true time in ticks. A lease is `ttl` ticks of it: a server may end a lease that was
//! renewed at tick *r* from tick *r + ttl* on, and a client believes until tick *s + ttl* is
//! reached, where *s* is the sending. Real servers count `ttl(1+ρ)` on a clock that is at most ρ
//! fast, so they end it no earlier than the model may; real clients count `ttl(1−ρ)` on a clock that
//! is at most ρ slow, so they stop no later than the model does. Every run of the real clocks is
//! therefore one of the model, and "never early" here is "never early" there. Everything happens
//! at any time: no step is urgent but where a scenario says so (`prompt`), to judge what must end
//! in time. Only what is left of a lease is in a state, so that time needs no bound. A new leader
//! starts leases at `ttl`, not `ttl + election_max`: the model shows that the rest is comfort.
//!
//! # What is left out, and why that is sound
//!
//! - Raft: one leader per term, committed entries stay, a superseded leader commits nothing and
//!   proves nothing. `multiraft` is tested for that.
//! - Election and apply to the own term are one step. In between a leader would be silent, and its
//!   leases would start later.
//! - Shared modes, downgrades and permits: who holds beside whom is the queue's affair, and here every
//!   hold is alone. Lock-delays keep places taken for longer, which ends nothing early. The golden
//!   scripts, the naive model of `locktable` and the simulator judge them.
//! - How long `max_hold` and a grace last: here they are over at any moment at which they may run,
//!   however early, since it is Ending and End that keep the promise and not their length.
//! - The lease of who waits for a reclaim: it goes away by its Cancel, at any time, and its end by
//!   the clock takes the same way through apply.
//! - The state file: a new life knows the tokens of the older one, and has a larger number; a life
//!   that finds neither is a new session, and no concern of the older one.
//! - `set_attributes`, arrival numbers and watches: they are for people, and end nothing.
//! - The order of changes of one hold: a client here sends the next wish before the last one is
//!   answered, which the product's does not, so that the log has to put up with more.
//! - The end of a whole client (`close`): it gives back what it no longer believes in, which every
//!   client here may do at any time.
//! - Stall credit, the age of keepalives: they move deadlines later. The size of the ring: it is
//!   switched off as a whole (`RingOfFinished`).
//! - How a range counts its age, and what it forgets by it: a range forgets all that has ended, at
//!   any moment (`forgettings`), and every attempt that was sent by then is in doubt. That is
//!   the rule at the moment at which the forgotten acquisition ended. A gateway has at once what is
//!   sent to it; the second by which more is in doubt stands for the time on that way. An attempt that a
//!   client sends after an end of which it has not heard is asked anew.
//! - Loss is a message that never arrives; where scenarios judge what is left behind when all is
//!   quiet (`lossless`), all arrive.
//!
//! # Bounds and numbers
//!
//! Every scenario is explored whole within its [`bounds`](scenario::Scenario), most with leases of
//! two ticks and one to three attempts per client; `sharklock-model check` prints the number of
//! states of each, and a test fails if one becomes smaller than it was. Small on purpose: a hole
//! needs few actors. `sharklock-model list` names all, and what each does without which rule;
//! `sharklock-model break 12` tells the stories of hole 12.

mod agree;
mod bounds;
mod client;
mod ending;
mod failover;
mod hold;
mod leader;
mod message;
mod model;
mod properties;
pub mod rules;
pub mod run;
pub mod scenario;
mod scenarios;
mod state;
pub mod story;
mod table;
mod world;
