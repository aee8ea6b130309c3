import { encodeBase64 } from './base64.js';
import { Batch, type Operated, type Operation } from './batch.js';
import { gateways, socketOf, time } from './config.js';
import { ZIMConversationType, ZIMMessageDirection, ZIMMessageSentStatus, ZIMMessageType } from './enums.js';
import { Failure, quoted, ZIMErrorCode } from './errors.js';
import { type Events, Listeners } from './events.js';
import { Log } from './log.js';
import { Session, unreadable, type User } from './session.js';
import type {
  RoomHistoryQueriedResult,
  Sendable,
  ZIMAppConfig,
  ZIMLogConfig,
  ZIMLoginConfig,
  ZIMLogoutConfig,
  ZIMMessageSendConfig,
  ZIMMessageSendNotification,
  ZIMMessageSentResult,
  ZIMRoomAdvancedConfig,
  ZIMRoomAllLeftResult,
  ZIMRoomAttributesBatchOperatedResult,
  ZIMRoomAttributesBatchOperationConfig,
  ZIMRoomAttributesDeleteConfig,
  ZIMRoomAttributesOperatedResult,
  ZIMRoomAttributesQueriedResult,
  ZIMRoomAttributesSetConfig,
  ZIMRoomCreatedResult,
  ZIMRoomEnteredResult,
  ZIMRoomInfo,
  ZIMRoomJoinedResult,
  ZIMRoomLeftResult,
  ZIMRoomMemberAttributesListQueriedResult,
  ZIMRoomMemberAttributesQueryConfig,
  ZIMRoomMemberAttributesSetConfig,
  ZIMRoomMemberQueriedResult,
  ZIMRoomMemberQueryConfig,
  ZIMRoomMembersAttributesOperatedResult,
  ZIMRoomMembersAttributesQueriedResult,
  ZIMRoomMembersQueriedResult,
  ZIMRoomOnlineMemberCountQueriedResult,
  ZIMRoomSwitchedResult,
  ZIMTokenRenewedResult,
  ZIMUserInfo,
} from './types.js';
import { version } from './version.js';
import { Malformed, maxMessage, message as readMessage, object } from './wire.js';

/** ZIMEventHandler has the listener of each type of event. */
export type ZIMEventHandler = { [K in keyof Events]: (zim: ZIM, data: Events[K]) => void };

/**
 * ZIM is one user of a room service: the API of ZIM's Web SDK, as far as it concerns rooms.
 *
 * What fails rejects its promise with a {@link ZIMError}. Calls wait for a connection while
 * there is none, and are repeated when it was lost with them under way, so that each
 * happens once; after requestTimeout they fail with 6000105.
 */
export class ZIM {
  private static instance: ZIM | null = null;

  /** farewell is the login of an instance that was destroyed: a gateway may still have to hear of its logout. */
  private static farewell: Session | undefined;

  /** create makes the one instance there is. While there is one, it gives null. */
  static create(appConfig: number | ZIMAppConfig): ZIM | null {
    if (ZIM.instance) {
      return null;
    }
    ZIM.instance = new ZIM(typeof appConfig === 'number' ? { appID: appConfig } : { ...appConfig });
    return ZIM.instance;
  }

  /** getInstance gives what create has made, null if there is none. */
  static getInstance(): ZIM | null {
    return ZIM.instance;
  }

  static getVersion(): string {
    return version;
  }

  private readonly log = new Log();
  private readonly listeners = new Listeners<ZIM>(this, this.log);
  private readonly batches = new Map<string, Batch>();
  private session: Session | undefined;
  private destroyed = false;
  private sent = 0;

  private constructor(private readonly cfg: ZIMAppConfig) {}

  /** setLogConfig says what is written to the console; by default errors alone. */
  setLogConfig(config: ZIMLogConfig): void {
    this.log.setLevel(config.logLevel);
  }

  /**
   * destroy frees the instance: create makes another. No listener is called any more. A
   * logout just before still goes out; without one, the user leaves their rooms when the
   * session's time is over.
   */
  destroy(): void {
    this.destroyed = true;
    this.session?.destroy();
    ZIM.farewell = this.session ?? ZIM.farewell;
    this.session = undefined;
    this.endBatches();
    if (ZIM.instance === this) {
      ZIM.instance = null;
    }
  }

  /** on sets the listener of a type of event, in place of the one before. */
  on<K extends keyof ZIMEventHandler>(type: K, listener: ZIMEventHandler[K]): void {
    this.listeners.on(type, listener);
  }

  off<K extends keyof ZIMEventHandler>(type: K): void {
    this.listeners.off(type);
  }

  /**
   * login connects, and resolves when the user is logged in. A login while another is
   * there fails with 6000111.
   */
  login(userInfo: ZIMUserInfo, token: string): Promise<void>;
  login(userID: string, config: Partial<ZIMLoginConfig>): Promise<void>;
  async login(who: ZIMUserInfo | string, how: string | Partial<ZIMLoginConfig>): Promise<void> {
    this.refuseIfDestroyed('login');
    for (let before = this.ending(); before; before = this.ending()) {
      await before.ended; // what is left to be said of it comes before the new one
    }
    this.refuseIfDestroyed('login');
    if (this.session) {
      throw new Failure(ZIMErrorCode.NetworkModuleUserHasAlreadyLogged, 'login: there is a login already');
    }
    const user: User = typeof who === 'string' ? { userID: who, userName: loginConfig(how).userName } : { ...who };
    if (typeof user.userID !== 'string' || user.userID === '') {
      throw new Failure(ZIMErrorCode.CommonModuleParamsInvalid, `login: userID is ${quoted(user.userID)}, it has to be a text of 1 to 32 bytes`);
    }
    const session: Session = new Session({
      servers: gateways(this.cfg),
      WebSocket: socketOf(this.cfg),
      user,
      token: (typeof how === 'string' ? how : loginConfig(how).token) ?? '',
      deviceID: this.cfg.deviceID,
      loginTimeout: time(this.cfg.loginTimeout, 'loginTimeout', 30_000),
      requestTimeout: time(this.cfg.requestTimeout, 'requestTimeout', 30_000),
      reenter: this.cfg.reenterAfterEviction === true,
      log: this.log,
      emit: (type, data) => this.listeners.emit(type, data),
      over: () => this.over(session),
    });
    this.session = session;
    await session.login();
  }

  /** logout leaves all rooms and ends the login. */
  logout(_config?: Partial<ZIMLogoutConfig>): void {
    this.session?.logout();
    this.endBatches();
  }

  async renewToken(token: string): Promise<ZIMTokenRenewedResult> {
    await this.current('renewToken').renewToken(token);
    return { token };
  }

  // Rooms

  /** createRoom makes a room that must not exist, and enters it. */
  async createRoom(roomInfo: ZIMRoomInfo, config?: Partial<ZIMRoomAdvancedConfig>): Promise<ZIMRoomCreatedResult> {
    return this.ask('createRoom', { roomInfo: roomOf(roomInfo), config: configOf(config) });
  }

  /** joinRoom enters a room that must exist. */
  async joinRoom(roomID: string): Promise<ZIMRoomJoinedResult> {
    return this.ask('joinRoom', { roomID });
  }

  /** enterRoom enters a room, and makes it if there is none: only then roomName and config count. */
  async enterRoom(roomInfo: ZIMRoomInfo, config?: Partial<ZIMRoomAdvancedConfig>): Promise<ZIMRoomEnteredResult> {
    return this.ask('enterRoom', { roomInfo: roomOf(roomInfo), config: configOf(config) });
  }

  /** switchRoom leaves one room and enters another, in one step. */
  async switchRoom(
    fromRoomID: string,
    toRoomInfo: ZIMRoomInfo,
    isCreateWhenRoomNotExisted: boolean,
    config?: Partial<ZIMRoomAdvancedConfig>,
  ): Promise<ZIMRoomSwitchedResult> {
    return this.ask('switchRoom', {
      fromRoomID,
      toRoomInfo: roomOf(toRoomInfo),
      isCreateWhenRoomNotExisted,
      config: configOf(config),
    });
  }

  async leaveRoom(roomID: string): Promise<ZIMRoomLeftResult> {
    return this.ask('leaveRoom', { roomID });
  }

  /** leaveAllRoom leaves the rooms of this login, not those of the user's other devices. */
  async leaveAllRoom(): Promise<ZIMRoomAllLeftResult> {
    return this.ask('leaveAllRoom', {});
  }

  /** queryRoomMemberList gives a page of the members, in the order in which they came. */
  async queryRoomMemberList(roomID: string, config: ZIMRoomMemberQueryConfig): Promise<ZIMRoomMemberQueriedResult> {
    return this.ask('queryRoomMemberList', { roomID, config: pageOf(config) });
  }

  async queryRoomMembers(userIDs: string[], roomID: string): Promise<ZIMRoomMembersQueriedResult> {
    return this.ask('queryRoomMembers', { userIDs, roomID });
  }

  async queryRoomOnlineMemberCount(roomID: string): Promise<ZIMRoomOnlineMemberCountQueriedResult> {
    return this.ask('queryRoomOnlineMemberCount', { roomID });
  }

  // Messages

  /** sendMessage is ZIM's; of its conversation types there are rooms alone. */
  async sendMessage(
    message: Sendable,
    toConversationID: string,
    conversationType: ZIMConversationType,
    config?: Partial<ZIMMessageSendConfig>,
    notification?: ZIMMessageSendNotification,
  ): Promise<ZIMMessageSentResult> {
    if (conversationType !== ZIMConversationType.Room) {
      const told = `sendMessage: conversationType is ${quoted(conversationType)}, there are rooms (1) alone`;
      throw new Failure(ZIMErrorCode.CommonModuleUnsupportedRequest, told);
    }
    return this.sendRoomMessage(message, toConversationID, config, notification);
  }

  /** sendRoomMessage sends to the others in a room, and gives the message as they get it. */
  async sendRoomMessage(
    message: Sendable,
    roomID: string,
    config?: Partial<ZIMMessageSendConfig>,
    notification?: ZIMMessageSendNotification,
  ): Promise<ZIMMessageSentResult> {
    const session = this.current('sendRoomMessage');
    const given = outgoing(message);
    const localMessageID = `${Date.now()}-${++this.sent}`;
    notification?.onMessageAttached?.({
      ...message,
      localMessageID,
      conversationID: roomID,
      conversationType: ZIMConversationType.Room,
      senderUserID: session.userID,
      direction: ZIMMessageDirection.Send,
      sentStatus: ZIMMessageSentStatus.Sending,
    });
    const priority = config?.priority;
    const result = await session.request('sendRoomMessage', {
      roomID,
      message: given,
      ...(priority !== undefined && { config: { priority } }),
    });
    const sent = reading('sendRoomMessage', () => readMessage(object(result['message'], 'message'), session.userID));
    return { message: { ...sent, localMessageID } };
  }

  /**
   * queryRoomHistory gives the newest messages that the room still keeps, before the one
   * with the messageSeq beforeSeq if that is not 0. It fails with -32601 where the operator
   * has not turned it on.
   */
  async queryRoomHistory(roomID: string, config: { count: number; beforeSeq?: number }): Promise<RoomHistoryQueriedResult> {
    const session = this.current('queryRoomHistory');
    const result = await session.request('queryRoomHistory', { roomID, config });
    return reading('queryRoomHistory', () => {
      const all = Array.isArray(result['messageList']) ? result['messageList'] : [];
      const messageList = all.map((m) => readMessage(object(m, 'message'), session.userID));
      return { ...(result as unknown as RoomHistoryQueriedResult), messageList };
    });
  }

  // Attributes

  /** setRoomAttributes sets attributes of a room; between begin and end it is part of the batch. */
  setRoomAttributes(
    roomAttributes: Record<string, string>,
    roomID: string,
    config?: Partial<ZIMRoomAttributesSetConfig>,
  ): Promise<ZIMRoomAttributesOperatedResult> {
    return (
      this.batched(roomID, { action: 'set', roomAttributes }) ??
      this.ask('setRoomAttributes', { roomID, roomAttributes, config: flagsOf(config) })
    );
  }

  /** deleteRoomAttributes deletes attributes of a room; between begin and end it is part of the batch. */
  deleteRoomAttributes(
    keys: string[],
    roomID: string,
    config?: Partial<ZIMRoomAttributesDeleteConfig>,
  ): Promise<ZIMRoomAttributesOperatedResult> {
    return (
      this.batched(roomID, { action: 'delete', keys }) ??
      this.ask('deleteRoomAttributes', { roomID, keys, config: config && { isForce: config.isForce } })
    );
  }

  /**
   * beginRoomAttributesBatchOperation has what is set and deleted from now on wait for the
   * end of the batch, in place of a batch of that room that was not ended.
   */
  beginRoomAttributesBatchOperation(roomID: string, config?: Partial<ZIMRoomAttributesBatchOperationConfig>): void {
    const before = this.batches.get(roomID);
    if (!before && this.batches.size >= maxBatches) {
      this.log.error(`a batch of attributes was not begun: ${maxBatches} rooms have one, which is the limit`);
      return; // its end will say that none was begun
    }
    before?.failed(new Failure(ZIMErrorCode.CommonModuleParamsInvalid, `the batch of room ${quoted(roomID)} was begun anew`));
    this.batches.set(roomID, new Batch(roomID, { ...config }));
  }

  /** endRoomAttributesBatchOperation carries out the batch, all at once for everybody else. */
  async endRoomAttributesBatchOperation(roomID: string): Promise<ZIMRoomAttributesBatchOperatedResult> {
    const batch = this.batches.get(roomID);
    if (!batch) {
      const told = `endRoomAttributesBatchOperation: no batch was begun for room ${quoted(roomID)}`;
      throw new Failure(ZIMErrorCode.CommonModuleParamsInvalid, told);
    }
    this.batches.delete(roomID);
    try {
      const params = { roomID, operations: batch.operations(), config: flagsOf(batch.config) };
      const result = await this.ask<ZIMRoomAttributesBatchOperatedResult>('batchRoomAttributes', params);
      batch.done(result.errorKeys ?? []);
      return result;
    } catch (err) {
      batch.failed(err);
      throw err;
    }
  }

  async queryRoomAllAttributes(roomID: string): Promise<ZIMRoomAttributesQueriedResult> {
    return this.ask('queryRoomAllAttributes', { roomID });
  }

  /** setRoomMembersAttributes gives attributes to members of a room, to each the same. */
  async setRoomMembersAttributes(
    attributes: Record<string, string>,
    userIDs: string[],
    roomID: string,
    config?: Partial<ZIMRoomMemberAttributesSetConfig>,
  ): Promise<ZIMRoomMembersAttributesOperatedResult> {
    const flags = config && { isDeleteAfterOwnerLeft: config.isDeleteAfterOwnerLeft };
    return this.ask('setRoomMembersAttributes', { roomID, userIDs, attributes, config: flags });
  }

  async queryRoomMembersAttributes(userIDs: string[], roomID: string): Promise<ZIMRoomMembersAttributesQueriedResult> {
    return this.ask('queryRoomMembersAttributes', { roomID, userIDs });
  }

  async queryRoomMemberAttributesList(
    roomID: string,
    config: ZIMRoomMemberAttributesQueryConfig,
  ): Promise<ZIMRoomMemberAttributesListQueriedResult> {
    return this.ask('queryRoomMemberAttributesList', { roomID, config: pageOf(config) });
  }

  /** ask sends a request. What the gateway answers has the shape that protocol.md gives it. */
  private async ask<R>(method: string, params: object): Promise<R> {
    return (await this.current(method).request(method, params)) as R;
  }

  /** ending is a login that is over, and of which something is still to be said. */
  private ending(): Session | undefined {
    return [this.session, ZIM.farewell].find((session) => session?.isEnding);
  }

  private current(method: string): Session {
    this.refuseIfDestroyed(method);
    if (!this.session) {
      throw new Failure(ZIMErrorCode.NetworkModuleUserIsNotLogged, `${method}: not logged in`);
    }
    return this.session;
  }

  private refuseIfDestroyed(method: string): void {
    if (this.destroyed) {
      throw new Failure(ZIMErrorCode.CommonModuleNotInit, `${method}: the instance was destroyed`);
    }
  }

  // The promise itself, and not one that follows it: it counts as handled.
  private batched(roomID: string, operation: Operation): Promise<Operated> | undefined {
    return this.batches.get(roomID)?.add(operation);
  }

  /** over forgets a session that has ended. */
  private over(session: Session): void {
    if (this.session === session) {
      this.session = undefined;
      this.endBatches();
    }
  }

  private endBatches(): void {
    for (const batch of this.batches.values()) {
      batch.failed(new Failure(ZIMErrorCode.NetworkModuleUserIsNotLogged, 'the login has ended before the batch'));
    }
    this.batches.clear();
  }
}

/** maxBatches is how many rooms may have a batch begun and not ended. */
const maxBatches = 500;

function loginConfig(how: string | Partial<ZIMLoginConfig> | undefined): Partial<ZIMLoginConfig> {
  return typeof how === 'object' && how !== null ? how : {};
}

// Only what the wire has a name for goes out: a gateway refuses names it takes for misspelt.

function roomOf(info: ZIMRoomInfo | undefined): object | undefined {
  return info && { roomID: info.roomID, roomName: info.roomName };
}

function configOf(config: Partial<ZIMRoomAdvancedConfig> | undefined): object | undefined {
  return config && { roomAttributes: config.roomAttributes, roomDestroyDelayTime: config.roomDestroyDelayTime };
}

function pageOf(config: { count: number; nextFlag: string } | undefined): object | undefined {
  return config && { count: config.count, nextFlag: config.nextFlag };
}

function flagsOf(config: Partial<ZIMRoomAttributesSetConfig> | undefined): object | undefined {
  return (
    config && {
      isForce: config.isForce,
      isDeleteAfterOwnerLeft: config.isDeleteAfterOwnerLeft,
      isUpdateOwner: config.isUpdateOwner,
    }
  );
}

/** outgoing is a message as it is sent: a command is bytes here, and base64 on the wire. */
function outgoing(message: Sendable): object {
  const m: { type: number; message?: unknown; subType?: number; extendedData?: string } = message;
  let text = m.message;
  if (m.type === ZIMMessageType.Command) {
    if (!(text instanceof Uint8Array)) {
      throw new Failure(ZIMErrorCode.CommonModuleParamsInvalid, 'the message of a command has to be a Uint8Array');
    }
    const most = (maxMessage / 4) * 3;
    if (text.length > most) {
      const told = `the message of a command has ${text.length} bytes, no request can have more than ${most} of them`;
      throw new Failure(ZIMErrorCode.CommonModuleParamsInvalid, told);
    }
    text = encodeBase64(text);
  }
  return { type: m.type, message: text, subType: m.subType, extendedData: m.extendedData };
}

/** reading turns what cannot be read into what a promise is rejected with. */
function reading<T>(method: string, read: () => T): T {
  try {
    return read();
  } catch (err) {
    if (!(err instanceof Malformed)) {
      throw err;
    }
    throw unreadable(method, err);
  }
}
