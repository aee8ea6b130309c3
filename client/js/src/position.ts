// How far a client knows a room.

export type Verdict =
  | 'fresh'
  | 'duplicate' // the gateway should not have sent it
  | 'repeated'; // it had to, but it was passed on before

/** PositionOnWire is what a resume names. */
export interface PositionOnWire {
  roomID: string;
  epoch: number;
  seq: number;
  membersSeq?: number;
}

/**
 * Progress is the position in one life of a room: what lies in (base, seq] was
 * passed on, where base is where the client came in, or later jumped to when
 * history was lost.
 */
export class Progress {
  private base: number;

  // Up to where the client was told who left and who came, which can be further than
  // seq: what else was missed follows that.
  private members = 0;

  // The repeat of an entry sends what followed the entry again. If all of that is
  // known, it is passed over, replaying, up to seq. If not, the client goes back to
  // where the entry took effect; (seenLow, seenHigh] is then what had been passed on
  // before.
  private replaying = false;
  private seenLow = 0;
  private seenHigh = 0;

  constructor(
    private epochNow: number,
    private seqNow: number,
  ) {
    this.base = seqNow;
  }

  get epoch(): number {
    return this.epochNow;
  }

  get seq(): number {
    return this.seqNow;
  }

  /** connected notes the position that came with (connected, success). */
  connected(epoch: number, seq: number): void {
    this.replaying = false;
    if (epoch !== this.epochNow) {
      this.epochNow = epoch;
      this.seqNow = this.base = seq;
      this.members = this.seenLow = this.seenHigh = 0;
    } else if (seq > this.seqNow) {
      this.seqNow = this.base = seq;
    } else if (seq >= this.base) {
      this.replaying = seq < this.seqNow;
    } else {
      this.seenLow = this.base;
      this.seenHigh = this.seqNow;
      this.seqNow = this.base = seq;
    }
  }

  /** take moves on to an event with the given seq; 0 is none. */
  take(seq: number): Verdict {
    if (seq === 0) {
      return 'fresh';
    }
    if (seq <= this.seqNow) {
      return this.replaying ? 'repeated' : 'duplicate';
    }
    this.replaying = false;
    this.seqNow = seq;
    return this.seenLow < seq && seq <= this.seenHigh ? 'repeated' : 'fresh';
  }

  /** knowsMembers notes up to where the client was told of others. */
  knowsMembers(seq: number): void {
    this.members = Math.max(this.members, seq);
  }

  onWire(roomID: string): PositionOnWire {
    const at: PositionOnWire = { roomID, epoch: this.epochNow, seq: this.seqNow };
    if (this.members > this.seqNow) {
      at.membersSeq = this.members;
    }
    return at;
  }
}
