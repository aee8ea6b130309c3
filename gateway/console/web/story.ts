// A minute of what rooms are for: two clients meet, one loses its link, and nothing is lost.

import type { ClientCard } from './client';

const room = 'lobby';

/** How long a caption is there before the next, in ms. */
const reading = 2600;

/** Thrown when the person has seen enough. */
class Stopped extends Error {}

/** Plays the story with two clients, telling each step, until its end or the signal. */
export async function tell(ana: ClientCard, bob: ClientCard, caption: (text: string) => void, signal: AbortSignal): Promise<void> {
  const step = async (text: string, act: () => unknown): Promise<void> => {
    if (signal.aborted) throw new Stopped();
    caption(text);
    if (await act() === false) throw new Stopped();
    await new Promise<void>((resolve) => {
      setTimeout(resolve, reading);
      signal.addEventListener('abort', () => resolve(), { once: true });
    });
  };
  const login = (card: ClientCard) => card.loggedIn || card.login();
  const a = ana.userID;
  const b = bob.userID;
  try {
    await step(`${a} logs in. A session begins: it outlives its connection.`, () => login(ana));
    await step(`${b} logs in, on any gateway there is: all see the same rooms.`, () => login(bob));
    await step(`${a} enters “${room}”. Nobody was there, so this creates it: (connecting, activeEnter), (connected, success).`, () => ana.enter(room));
    await step(`${b} enters, too, and ${a} is told.`, () => bob.enter(room));
    await step(`${a} speaks. Every event of a room has a number, and all see them in its order.`, () => ana.say(room, `hello ${b}`));
    await step(`Now ${b}'s link is cut. ${b} sees (connecting, networkInterrupted); ${a} sees nothing: the place is kept.`, () => bob.setLink(false));
    await step(`${a} goes on meanwhile …`, async () => {
      for (const text of ['one', 'two', 'three']) await ana.say(room, text);
    });
    await step(`The link is back. ${b} resumes the session: same place, and everything missed, once and in order.`, () => bob.setLink(true));
    await step(`${b} leaves, and ${a} is told. When the last one goes the room ends, here a minute later.`, () => bob.perform('leaveRoom', { roomID: room }));
    caption('That was it. Try the operations yourself, or kick somebody out from the console.');
  } catch (err) {
    if (!(err instanceof Stopped)) throw err;
    bob.setLink(true);
    caption(signal.aborted ? '' : 'That did not work: the problem is in the card.');
  }
}
