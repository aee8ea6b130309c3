import { Failure, quoted, ZIMErrorCode } from './errors.js';
import type { ZIMRoomAttributesBatchOperationConfig } from './types.js';

/** maxOperations is how many operations a batch may have. */
export const maxOperations = 20;

export type Operation =
  | { action: 'set'; roomAttributes: Record<string, string> }
  | { action: 'delete'; keys: string[] };

/** What one operation of a batch comes to. */
export interface Operated {
  roomID: string;
  errorKeys: string[];
}

interface Waiting {
  operation: Operation;
  resolve(result: Operated): void;
  reject(err: unknown): void;
}

/**
 * A Batch gathers what is asked for between begin and end. Applications of ZIM do not
 * await what they ask for in between, so its promises count as handled.
 */
export class Batch {
  private readonly waiting: Waiting[] = [];
  private overfull = 0;

  constructor(
    readonly roomID: string,
    readonly config: Partial<ZIMRoomAttributesBatchOperationConfig>,
  ) {}

  add(operation: Operation): Promise<Operated> {
    const promise = new Promise<Operated>((resolve, reject) => {
      if (this.waiting.length >= maxOperations) {
        this.overfull++;
        reject(this.tooMany());
      } else {
        this.waiting.push({ operation: copy(operation), resolve, reject });
      }
    });
    promise.catch(() => {});
    return promise;
  }

  /** operations throws if there are more than a batch may have: none of them is to be done then. */
  operations(): Operation[] {
    if (this.overfull > 0) {
      throw this.tooMany();
    }
    return this.waiting.map((w) => w.operation);
  }

  /** done settles the promises; each gets those of errorKeys that it named. */
  done(errorKeys: string[]): void {
    for (const { operation, resolve } of this.waiting) {
      const named = new Set(operation.action === 'set' ? Object.keys(operation.roomAttributes) : operation.keys);
      resolve({ roomID: this.roomID, errorKeys: errorKeys.filter((key) => named.has(key)) });
    }
  }

  failed(err: unknown): void {
    for (const { reject } of this.waiting) {
      reject(err);
    }
  }

  private tooMany(): Failure {
    const n = maxOperations + this.overfull;
    return new Failure(
      ZIMErrorCode.CommonModuleParamsInvalid,
      `the batch of attributes of room ${quoted(this.roomID)} has ${n} operations, the limit is ${maxOperations}`,
    );
  }
}

/** copy keeps what was asked for, whatever the application does with its objects before the end. */
function copy(operation: Operation): Operation {
  return operation.action === 'set'
    ? { ...operation, roomAttributes: shallow(operation.roomAttributes) }
    : { ...operation, keys: shallow(operation.keys) };
}

// What is neither an object nor a list stays what it is: it is for the gateway to refuse.
function shallow<T>(value: T): T {
  if (Array.isArray(value)) {
    return [...value] as T;
  }
  return typeof value === 'object' && value !== null ? { ...value } : value;
}
