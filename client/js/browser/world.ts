// What the browser tests are played in: Redis and gateways as processes, a server for pages,
// a Chromium, and a link that can be cut. All of it is on 127.0.0.1, on ports that were
// free, and ends with the test file.

import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { createHmac } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer as createHttpServer, type Server } from 'node:http';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { extname, join, normalize } from 'node:path';
import { type Browser, chromium } from 'playwright-core';

const repository = join(import.meta.dirname, '../../..');
const wait = 30_000;

/** API key that gateways take with --dev. */
export const apiKey = 'dev';

/** secret signs the tokens of gateways that are started with tokens. */
export const secret = 'a secret of the tests, of more than 32 bytes';

/** token makes a JSON Web Token for a user, that holds for so many seconds. */
export function token(userID: string, seconds: number): string {
  const part = (v: object) => Buffer.from(JSON.stringify(v)).toString('base64url');
  const now = Math.floor(Date.now() / 1000);
  const signed = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ sub: userID, exp: now + seconds })}`;
  return `${signed}.${createHmac('sha256', secret).update(signed).digest('base64url')}`;
}

/** until waits for a condition. What it throws at the end names what was waited for. */
export async function until(what: string | (() => string), condition: () => unknown): Promise<void> {
  const end = Date.now() + wait;
  for (;;) {
    if (await condition()) {
      return;
    }
    if (Date.now() > end) {
      throw new Error(`waited ${wait / 1000} s for ${typeof what === 'string' ? what : what()}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** A Process is one that a test has started, and ends. */
export class Process {
  output = ''; // the end of what it wrote
  readonly exited: Promise<void>;

  constructor(
    readonly name: string,
    readonly child: ChildProcess,
  ) {
    const keep = (chunk: Buffer) => {
      this.output = (this.output + chunk.toString()).slice(-20_000);
    };
    child.stdout?.on('data', keep);
    child.stderr?.on('data', keep);
    this.exited = new Promise((resolve) => {
      child.on('close', () => resolve());
      child.on('error', () => resolve());
    });
  }

  get running(): boolean {
    return this.child.pid !== undefined && this.child.exitCode === null && this.child.signalCode === null;
  }

  /** ready waits for a condition, and says what the process wrote if it ends before that. */
  async ready(condition: () => Promise<boolean>): Promise<void> {
    await until(`${this.name} to be ready`, async () => {
      if (!this.running) {
        throw new Error(`${this.name} has ended:\n${this.output}`);
      }
      return condition().catch(() => false);
    });
  }

  async end(signal: NodeJS.Signals): Promise<void> {
    if (this.running) {
      this.child.kill(signal);
    }
    await this.exited;
  }
}

/** A Gateway that listens on port. */
export class Gateway {
  constructor(
    readonly process: Process,
    readonly port: number,
  ) {}

  /** url is what the SDK is given as its server. */
  get url(): string {
    return `ws://127.0.0.1:${this.port}`;
  }

  get http(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  /** backend makes a call of the server API, and gives its status. */
  async backend(method: string, path: string, body?: object): Promise<number> {
    const response = await fetch(this.http + path, {
      method,
      headers: { Authorization: `Bearer ${apiKey}` },
      body: body ? JSON.stringify(body) : null,
    });
    await response.arrayBuffer();
    return response.status;
  }
}

/** A Relay is a link to a gateway that a test can cut, and restore. */
export class Relay {
  private readonly sockets = new Set<Socket>();
  private isCut = false;

  constructor(
    private readonly server: ReturnType<typeof createServer>,
    readonly port: number,
    to: number,
  ) {
    server.on('connection', (near) => {
      if (this.isCut) {
        near.destroy();
        return;
      }
      const far = connect(to, '127.0.0.1');
      for (const [a, b] of [[near, far], [far, near]] as const) {
        this.sockets.add(a);
        a.pipe(b);
        a.on('error', () => {});
        a.on('close', () => {
          this.sockets.delete(a);
          b.destroy();
        });
      }
    });
  }

  get url(): string {
    return `ws://127.0.0.1:${this.port}`;
  }

  /** cut breaks all connections, and refuses others until restore. */
  cut(): void {
    this.isCut = true;
    for (const s of this.sockets) {
      s.destroy();
    }
  }

  /** freeze lets nothing pass any more on the connections that there are, and breaks none. */
  freeze(): void {
    for (const s of this.sockets) {
      s.unpipe();
      s.pause();
    }
  }

  restore(): void {
    this.isCut = false;
  }

  close(): void {
    this.cut();
    this.server.close();
  }
}

/** A World is all that a test file has started. Close ends it. */
export class World {
  private readonly dir = mkdtempSync(join(tmpdir(), 'roomgate-browser-'));
  private readonly closers: (() => unknown)[] = [];
  private binary: string | undefined;
  private redisPort = 0;

  /** start runs a Redis of the world's own. */
  static async start(): Promise<World> {
    const world = new World();
    try {
      world.redisPort = await freePort();
      const redis = world.spawn('redis', process.env['ROOMGATE_TEST_REDIS_SERVER'] ?? 'redis-server', [
        ...['--port', String(world.redisPort), '--bind', '127.0.0.1', '--save', '', '--dir', world.dir],
      ]);
      await redis.ready(() => ping(world.redisPort));
    } catch (err) {
      await world.close();
      throw err;
    }
    return world;
  }

  async close(): Promise<void> {
    for (const close of this.closers.reverse()) {
      await close();
    }
    rmSync(this.dir, { recursive: true, force: true });
  }

  /** node runs a program in Node, and gives what it writes. It fails if the program does. */
  async node(program: string, flags: string[] = []): Promise<string> {
    const p = this.spawn('node', process.execPath, [...flags, '--input-type=module', '--eval', program]);
    await p.exited;
    if (p.child.exitCode !== 0) {
      throw new Error(`a program has failed:\n${p.output}`);
    }
    return p.output;
  }

  private spawn(name: string, command: string, args: string[], env: Record<string, string> = {}): Process {
    const p = new Process(name, spawn(command, args, { env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] }));
    this.closers.push(() => p.end('SIGKILL'));
    return p;
  }

  /**
   * gateway starts one more gateway. Times are short, so that tests of what happens after
   * them need not take long; flags are more of its flags. With tokens it checks tokens, and
   * takes pages of this world alone; without, it is one for development.
   */
  async gateway(options: { flags?: string[]; tokens?: boolean } = {}): Promise<Gateway> {
    this.binary ??= this.build();
    const port = await freePort();
    const internal = await freePort();
    const access = options.tokens ? [`--allowed-origins=127.0.0.1:*`] : ['--dev'];
    const env = options.tokens ? { ROOMGATE_JWT_HS256_SECRET: secret, ROOMGATE_API_KEYS: `${apiKey}-of-the-tests` } : {};
    const p = this.spawn(
      `gateway ${port}`,
      this.binary,
      [
        `--listen=127.0.0.1:${port}`,
        `--internal-listen=127.0.0.1:${internal}`,
        `--redis-url=redis://127.0.0.1:${this.redisPort}`,
        ...['--session-ttl=8s', '--heartbeat-interval=1s', '--lease-ttl=3s', '--drain-window=2s'],
        ...access,
        ...(options.flags ?? []),
      ],
      env as Record<string, string>,
    );
    const g = new Gateway(p, port);
    await p.ready(async () => (await fetch(`${g.http}/readyz`)).ok);
    return g;
  }

  /** relay listens for links to a gateway. */
  async relay(to: Gateway): Promise<Relay> {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const relay = new Relay(server, (server.address() as AddressInfo).port, to.port);
    this.closers.push(() => relay.close());
    return relay;
  }

  /** browser starts a Chromium. Outside of tests of its own sandbox root has none. */
  async browser(): Promise<Browser> {
    const browser = await chromium.launch({
      executablePath: findChromium(),
      args: process.getuid?.() === 0 ? ['--no-sandbox'] : [],
    });
    this.closers.push(() => browser.close());
    return browser;
  }

  /**
   * pages serves a page with the SDK, and the files of a folder beside it. It gives the URL
   * of the page, in which ZIM is the SDK's and load imports a module.
   */
  async pages(folder: string): Promise<string> {
    const sdk = this.sdk();
    const server = createHttpServer((request, response) => {
      const path = normalize(new URL(request.url ?? '/', 'http://localhost').pathname);
      const file = path.startsWith('/sdk/') ? join(sdk, path.slice(5)) : join(folder, path);
      let body: Buffer;
      try {
        body = path === '/' ? Buffer.from(page) : readFileSync(file);
      } catch {
        response.writeHead(404).end();
        return;
      }
      const types: Record<string, string> = { '.js': 'text/javascript', '.css': 'text/css', '.html': 'text/html' };
      response.writeHead(200, { 'Content-Type': types[extname(path)] ?? 'text/html' }).end(body);
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    this.closers.push(() => closeServer(server));
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  }

  /** sdk builds the SDK, and gives the folder of its modules. */
  sdk(): string {
    const out = join(this.dir, 'sdk');
    execFileSync(join(import.meta.dirname, '../node_modules/.bin/tsc'), ['-p', 'tsconfig.build.json', '--outDir', out], {
      cwd: join(import.meta.dirname, '..'),
    });
    writeFileSync(join(out, 'package.json'), '{"type":"module"}'); // as in the package
    return out;
  }

  /** build makes the gateway, unless ROOMGATE_TEST_GATEWAY names one. */
  private build(): string {
    const given = process.env['ROOMGATE_TEST_GATEWAY'];
    if (given) {
      return given;
    }
    const out = join(this.dir, 'roomgate');
    execFileSync('go', ['build', '-o', out, './cmd/roomgate'], { cwd: repository, stdio: ['ignore', 'inherit', 'inherit'] });
    return out;
  }
}

function closeServer(server: Server): Promise<void> {
  server.closeAllConnections();
  return new Promise((resolve) => server.close(() => resolve()));
}

// What a test evaluates in a page cannot import: the test runner takes that for its own.
const page = `<!doctype html><title>test</title><script type="module">
import { ZIM } from '/sdk/index.js';
window.load = (module) => import(module);
window.ZIM = ZIM;
</script>`;

/** ping says whether a Redis answers. */
function ping(port: number): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', () => socket.write('PING\r\n'));
    socket.on('data', (data) => {
      resolve(data.toString().startsWith('+PONG'));
      socket.destroy();
    });
    socket.on('error', reject);
  });
}

function findChromium(): string {
  const names = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'];
  const candidates = [process.env['ROOMGATE_TEST_CHROMIUM'], ...names, '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome'];
  for (const name of candidates) {
    try {
      return execFileSync('sh', ['-c', 'command -v "$1"', 'sh', name ?? '']).toString().trim();
    } catch {
      // the next
    }
  }
  throw new Error('there is no Chromium: install one, or name it in ROOMGATE_TEST_CHROMIUM');
}
