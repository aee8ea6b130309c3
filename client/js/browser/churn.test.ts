import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import type { ZIM } from '../src/index.js';
import { type Gateway, type Relay, until, World } from './world.js';

// Applications that use rooms while their links break all the time. What each of them knows,
// from its own queries and the events it was told, has to come out as what is.

let world: World;
let gateways: Gateway[];

beforeAll(async () => {
  world = await World.start();
  // So little is kept that some events are missed for good.
  const flags = ['--log-size=1'];
  gateways = [await world.gateway({ flags }), await world.gateway({ flags })];
});

afterAll(() => world.close());

const seed = Number(process.env['ROOMGATE_TEST_SEED'] ?? Date.now() % 1_000_000);
let state = seed;

/** random is what chance decides, the same again with the same seed. */
function random(): number {
  state = (state * 1_103_515_245 + 12_345) % 2_147_483_648;
  return state / 2_147_483_648;
}

function pick<T>(of: readonly T[]): T {
  return of[Math.floor(random() * of.length)] as T;
}

const roomIDs = ['red', 'green', 'blue'];

/** What an application knows of a room that it is in. */
interface Known {
  members: Set<string>;
  attributes: Record<string, string>;
  /** The application has read the member list, so nobody may leave whom it does not know. */
  complete: boolean;
  orderKey: number;
  last: Map<string, number>; // the number of the last message of each sender
}

/** An Application is a client of its own: the SDK has one instance, so its modules are loaded anew. */
class Application {
  readonly rooms = new Map<string, Known>();
  readonly wrong: string[] = [];
  private readonly entering = new Map<string, Known>();
  private sent = 0;

  private constructor(
    readonly name: string,
    readonly zim: ZIM,
    readonly relays: Relay[],
  ) {}

  static async start(name: string): Promise<Application> {
    vi.resetModules();
    const { ZIM } = await import('../src/index.js');
    const relays: Relay[] = [];
    for (const g of gateways) {
      relays.push(await world.relay(g));
    }
    const zim = ZIM.create({ appID: 1, server: relays.map((r) => r.url) }) as ZIM;
    const app = new Application(name, zim, relays);
    app.listen();
    await zim.login(name, { userName: name, token: '' } as never);
    return app;
  }

  private listen(): void {
    const { zim } = this;
    const known = (roomID: string, what: string): Known => {
      const k = this.rooms.get(roomID) ?? this.entering.get(roomID);
      if (!k) {
        this.wrong.push(`${what} of ${roomID}, in which it is not`);
      }
      return k ?? nothing();
    };
    zim.on('roomStateChanged', (_, { roomID, state, event }) => {
      if (state === 0) {
        this.rooms.delete(roomID);
        this.entering.delete(roomID);
      } else if (state === 2 && !this.rooms.has(roomID)) {
        this.rooms.set(roomID, this.entering.get(roomID) ?? nothing());
        this.entering.delete(roomID);
      } else if (state === 1 && event !== 1) {
        this.entering.set(roomID, nothing());
      }
    });
    zim.on('roomMemberJoined', (_, { roomID, memberList }) => {
      for (const { userID } of memberList) {
        known(roomID, 'an entry').members.add(userID);
        this.check(userID !== this.name, 'it was told of its own entry');
      }
    });
    zim.on('roomMemberLeft', (_, { roomID, memberList }) => {
      for (const { userID } of memberList) {
        const k = known(roomID, 'a departure');
        this.check(k.members.delete(userID) || !k.complete, `${userID} left ${roomID} twice`);
      }
    });
    const attributes: Parameters<typeof zim.on<'roomAttributesUpdated'>>[1] = (_, { roomID, infos }) => {
      const k = known(roomID, 'attributes');
      for (const { action, roomAttributes } of infos) {
        for (const [key, value] of Object.entries(roomAttributes)) {
          if (action === 0) {
            k.attributes[key] = value;
          } else {
            delete k.attributes[key];
          }
        }
      }
    };
    zim.on('roomAttributesUpdated', attributes);
    zim.on('roomAttributesBatchUpdated', attributes);
    zim.on('roomMessageReceived', (_, { fromConversationID, messageList }) => {
      const k = known(fromConversationID, 'a message');
      for (const m of messageList) {
        const [who, n] = (m as unknown as { message: string }).message.split(' ') as [string, string];
        this.check((m.orderKey ?? 0) > k.orderKey, `a message of ${who} is out of order`);
        this.check(Number(n) > (k.last.get(who) ?? 0), `message ${n} of ${who} came twice`);
        k.orderKey = m.orderKey ?? 0;
        k.last.set(who, Number(n));
      }
    });
    zim.on('error', (_, { message }) => this.wrong.push(message));
  }

  private check(right: boolean, otherwise: string): void {
    if (!right) {
      this.wrong.push(otherwise);
    }
  }

  /** act does one thing, and takes a refusal for an answer. */
  async act(): Promise<void> {
    const { zim } = this;
    const roomID = pick(roomIDs);
    const mine = [...this.rooms.keys()];
    const config = { isForce: true, isUpdateOwner: false, isDeleteAfterOwnerLeft: false };
    const key = `k${Math.floor(random() * 5)}`;
    const what = random();
    try {
      if (what < 0.2 || mine.length === 0) {
        await zim.enterRoom({ roomID, roomName: '' }, { roomAttributes: { by: this.name }, roomDestroyDelayTime: 0 });
        await this.readMembers(roomID);
      } else if (what < 0.26) {
        await zim.leaveRoom(pick(mine));
      } else if (what < 0.34) {
        await zim.switchRoom(pick(mine), { roomID, roomName: '' }, true);
      } else if (what < 0.7) {
        await zim.sendRoomMessage({ type: 1, message: `${this.name} ${++this.sent}` } as never, pick(mine));
      } else if (what < 0.85) {
        await zim.setRoomAttributes({ [key]: String(++this.sent) }, pick(mine), config);
      } else {
        await zim.deleteRoomAttributes([key], pick(mine), config);
      }
    } catch (err) {
      this.check((err as { code?: number }).code !== undefined, String(err));
    }
  }

  /** readMembers takes one page for all there is: there are not so many. */
  private async readMembers(roomID: string): Promise<void> {
    const k = this.rooms.get(roomID);
    const { memberList } = await this.zim.queryRoomMemberList(roomID, { count: 100, nextFlag: '' });
    if (k) {
      k.members = new Set(memberList.map((m) => m.userID).filter((userID) => userID !== this.name));
      k.complete = true;
    }
  }

  /** differs says in what the application's rooms are not what the service says they are. */
  async differs(): Promise<string[]> {
    const found: string[] = [];
    for (const [roomID, k] of this.rooms) {
      const { memberList } = await this.zim.queryRoomMemberList(roomID, { count: 100, nextFlag: '' });
      const { roomAttributes } = await this.zim.queryRoomAllAttributes(roomID);
      const others = memberList.map((m) => m.userID).filter((userID) => userID !== this.name);
      if (k.complete && [...k.members].sort().join() !== others.sort().join()) {
        found.push(`${this.name} in ${roomID} knows ${[...k.members]}, there are ${others}`);
      }
      if (JSON.stringify(Object.entries(k.attributes).sort()) !== JSON.stringify(Object.entries(roomAttributes).sort())) {
        found.push(`${this.name} in ${roomID} knows ${JSON.stringify(k.attributes)}, there is ${JSON.stringify(roomAttributes)}`);
      }
    }
    return found;
  }
}

function nothing(): Known {
  return { members: new Set(), attributes: {}, complete: false, orderKey: 0, last: new Map() };
}

test.runIf('WebSocket' in globalThis)(`what applications know is what is, whatever happens to their links; seed ${seed}`, async () => {
  const all: Application[] = [];
  for (let i = 0; i < 5; i++) {
    all.push(await Application.start(`app${i}`));
  }
  // Each has so much to do; a link breaks now and then, and is away for a while.
  const work = all.map(async (app) => {
    for (let i = 0; i < 25; i++) {
      await app.act();
      if (random() < 0.12) {
        app.relays.forEach((r) => r.cut());
        const away = random() < 0.1 ? 10_000 : random() * 2_500; // some are too late
        setTimeout(() => app.relays.forEach((r) => r.restore()), away);
      }
    }
  });
  await Promise.all(work);
  all.forEach((app) => app.relays.forEach((r) => r.restore()));

  let differences: string[] = [];
  await until(
    () => `everybody to know what is: ${differences.join('; ')}`,
    async () => {
      differences = (await Promise.all(all.map((app) => app.differs().catch((err) => [String(err)])))).flat();
      return differences.length === 0;
    },
  );
  expect(all.flatMap((app) => app.wrong.map((what) => `${app.name}: ${what}`))).toEqual([]);
  for (const app of all) {
    app.zim.logout();
    app.zim.destroy();
  }
}, 180_000);
