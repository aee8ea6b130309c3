// The shapes of ZIM's Web SDK as far as they concern rooms. What is ours beyond
// them is marked so; all of that is optional to an application.

import type {
  ZIMConnectionEvent,
  ZIMConnectionState,
  ZIMConversationType,
  ZIMMessageDirection,
  ZIMMessagePriority,
  ZIMMessageSentStatus,
  ZIMMessageType,
  ZIMRoomAttributesUpdateAction,
  ZIMRoomEvent,
  ZIMRoomState,
} from './enums.js';

export interface ZIMAppConfig {
  /** Goes with ZIM's tokens, which are made for one appID; there is no other use for it. */
  appID: number;
  /**
   * Ours. The gateways, such as "wss://rooms.example.com"; without a path, /v1/ws is meant.
   * They are tried in turn. Default: where the page comes from.
   */
  server?: string | string[];
  /** Ours. The WebSocket constructor; default `globalThis.WebSocket`, which Node has from 22 on. */
  WebSocket?: WebSocketConstructor;
  /** Ours. Names the device: up to 128 bytes of the ID characters. A login without is a device of its own. */
  deviceID?: string;
  /** Ours. How long a login may take, in milliseconds; default 30,000. */
  loginTimeout?: number;
  /** Ours. How long a call may take, repeats included, in milliseconds; default 30,000. */
  requestTimeout?: number;
  /** Ours. Enter a room again after the time to come back to it was over; default false. */
  reenterAfterEviction?: boolean;
}

/** A WebSocket as far as it is used: what browsers have, and the `ws` package. */
export interface WebSocketLike {
  readonly readyState: number;
  onopen: ((event: any) => void) | null;
  onmessage: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  send(data: string): void;
  close(): void;
}
export type WebSocketConstructor = new (url: string, protocols: string[]) => WebSocketLike;

export interface ZIMLogConfig {
  logLevel: 'debug' | 'info' | 'warn' | 'error' | 'report' | 'disable';
}

export interface ZIMUserInfo {
  userID: string;
  userName: string;
  userAvatarUrl: string;
  userExtendedData: string;
}

export interface ZIMErrorUserInfo {
  userID: string;
  reason: number;
}

export interface ZIMLoginConfig {
  userName: string;
  token: string;
  /** Accepted for ZIM's sake, and ignored. */
  isOfflineLogin: boolean;
  /** Accepted for ZIM's sake, and ignored. */
  customStatus: string;
  /** Accepted for ZIM's sake, and ignored. */
  customStatusDuration: number;
}

export interface ZIMLogoutConfig {
  /** Accepted for ZIM's sake, and ignored: nothing is stored here. */
  isClearDB: boolean;
}

export interface ZIMTokenRenewedResult {
  token: string;
}

/** Ours. A position: the life of a room, and the number of an event in it. */
export interface Position {
  epoch: number;
  seq: number;
}

// Messages

export interface ZIMMessage {
  type: ZIMMessageType;
  messageID?: string;
  localMessageID?: string;
  messageSeq?: number;
  senderUserID?: string;
  conversationID?: string;
  conversationType?: ZIMConversationType;
  direction?: ZIMMessageDirection;
  sentStatus?: ZIMMessageSentStatus;
  timestamp?: number;
  orderKey?: number;
  extendedData?: string;

  // What follows is accepted for ZIM's sake, and neither sent nor received.
  localExtendedData?: string;
  isUserInserted?: boolean;
  receiptStatus?: number;
  reactions?: any[];
  isBroadcastMessage?: boolean;
  mentionedUserIDs?: string[];
  isMentionAll?: boolean;
  repliedInfo?: any;
  rootRepliedCount?: number;
  isServerMessage?: boolean;
  editorUserID?: string;
  editedTime?: number;
  isGroupTargetedMessage?: boolean;
  pinnedUserID?: string;
  pinnedTime?: number;
}

/** Ours. Any of the messages that can be sent, as a literal as well. */
export type Sendable = ZIMMessage | ZIMTextMessage | ZIMCommandMessage | ZIMBarrageMessage | ZIMCustomMessage;

export interface ZIMTextMessage extends ZIMMessage {
  message: string;
  type: ZIMMessageType.Text;
}

export interface ZIMCommandMessage extends ZIMMessage {
  message: Uint8Array;
  type: ZIMMessageType.Command;
}

export interface ZIMBarrageMessage extends ZIMMessage {
  message: string;
  type: ZIMMessageType.Barrage;
}

export interface ZIMCustomMessage extends ZIMMessage {
  message: string;
  searchedContent?: string;
  subType: number;
  type: ZIMMessageType.Custom;
}

export interface ZIMMessageSendConfig {
  priority: ZIMMessagePriority;

  // What follows is accepted for ZIM's sake, and ignored.
  pushConfig?: any;
  hasReceipt?: boolean;
  isNotifyMentionedUsers?: boolean;
  isRetrySend?: boolean;
  disableUnreadMessageCount?: boolean;
  isAllowMultipleMessagePartialFailed?: boolean;
}

export interface ZIMMessageSendNotification {
  /** Called with the message before it is sent. */
  onMessageAttached?: (message: ZIMMessage) => void;

  // What follows is accepted for ZIM's sake, and never called: no message has a file.
  onMediaUploadingProgress?: (...args: any[]) => void;
  onMultipleMediaUploadingProgress?: (...args: any[]) => void;
}

export interface ZIMMessageSentResult {
  message: ZIMMessage;
}

export interface ZIMMessageReceivedInfo {
  isOfflineMessage: boolean;
}

// Rooms

export interface ZIMRoomInfo {
  roomID: string;
  roomName: string;
}

export interface ZIMRoomFullInfo {
  baseInfo: ZIMRoomInfo;
}

export interface ZIMRoomAdvancedConfig {
  roomAttributes: Record<string, string>;
  /** Whole seconds, 0–10,800. */
  roomDestroyDelayTime: number;
}

/** The result of an entry. What ZIM has not: created, epoch and seq, memberCount. */
export interface ZIMRoomEnteredResult extends Position {
  roomInfo: ZIMRoomFullInfo;
  /** Ours. This call has made the room. */
  created: boolean;
  /** Ours. You included. */
  memberCount: number;
}
export interface ZIMRoomCreatedResult extends ZIMRoomEnteredResult {}
export interface ZIMRoomJoinedResult extends ZIMRoomEnteredResult {}
export interface ZIMRoomSwitchedResult extends ZIMRoomEnteredResult {}

export interface ZIMRoomLeftResult {
  roomID: string;
}

export interface ZIMRoomAllLeftResult {
  roomIDs: string[];
}

export interface ZIMRoomMemberInfo extends ZIMUserInfo {}

export interface ZIMRoomMemberQueryConfig {
  nextFlag: string;
  /** 1–100. */
  count: number;
}

export interface ZIMRoomMemberQueriedResult extends Position {
  roomID: string;
  memberList: ZIMUserInfo[];
  /** "" after the last page. */
  nextFlag: string;
}

export interface ZIMRoomMembersQueriedResult extends Position {
  roomID: string;
  memberList: ZIMRoomMemberInfo[];
  errorUserList: ZIMErrorUserInfo[];
}

export interface ZIMRoomOnlineMemberCountQueriedResult extends Position {
  roomID: string;
  count: number;
}

/** Ours. What the room still keeps, where the operator allows asking. */
export interface RoomHistoryQueriedResult extends Position {
  roomID: string;
  /** Oldest first. */
  messageList: ZIMMessage[];
  /** The beforeSeq that gives what was before; 0 if there is nothing. */
  nextSeq: number;
}

// Attributes

export interface ZIMRoomAttributesSetConfig {
  isForce: boolean;
  isDeleteAfterOwnerLeft: boolean;
  isUpdateOwner: boolean;
}

export interface ZIMRoomAttributesBatchOperationConfig {
  isForce: boolean;
  isDeleteAfterOwnerLeft: boolean;
  isUpdateOwner: boolean;
}

export interface ZIMRoomAttributesDeleteConfig {
  isForce: boolean;
}

export interface ZIMRoomAttributesUpdateInfo {
  action: ZIMRoomAttributesUpdateAction;
  /** Deleted keys have the value "". */
  roomAttributes: Record<string, string>;
}

export interface ZIMRoomAttributesOperatedResult {
  roomID: string;
  /** What belongs to others, and was left as it is. */
  errorKeys: string[];
}

export interface ZIMRoomAttributesBatchOperatedResult {
  roomID: string;
  /** Ours. As in ZIMRoomAttributesOperatedResult. */
  errorKeys: string[];
}

export interface ZIMRoomAttributesQueriedResult extends Position {
  roomID: string;
  roomAttributes: Record<string, string>;
}

export interface ZIMRoomMemberAttributesInfo {
  userID: string;
  attributes: Record<string, string>;
}

export interface ZIMRoomMemberAttributesOperatedInfo {
  attributesInfo: ZIMRoomMemberAttributesInfo;
  errorKeys: string[];
}

export interface ZIMRoomMemberAttributesUpdateInfo {
  attributesInfo: ZIMRoomMemberAttributesInfo;
}

export interface ZIMRoomMemberAttributesSetConfig {
  isDeleteAfterOwnerLeft: boolean;
}

export interface ZIMRoomMemberAttributesQueryConfig {
  nextFlag: string;
  /** 1–100. */
  count: number;
}

export interface ZIMRoomOperatedInfo {
  userID: string;
}

export interface ZIMRoomMembersAttributesOperatedResult {
  roomID: string;
  infos: ZIMRoomMemberAttributesOperatedInfo[];
  errorUserList: string[];
}

export interface ZIMRoomMembersAttributesQueriedResult extends Position {
  roomID: string;
  infos: ZIMRoomMemberAttributesInfo[];
}

export interface ZIMRoomMemberAttributesListQueriedResult extends Position {
  roomID: string;
  infos: ZIMRoomMemberAttributesInfo[];
  nextFlag: string;
}

// Events

export interface ZIMEventOfConnectionStateChangedResult {
  state: ZIMConnectionState;
  event: ZIMConnectionEvent;
  extendedData: string;
}

export interface ZIMEventOfTokenWillExpireResult {
  second: number;
}

export interface ZIMEventOfRoomStateChangedResult {
  roomID: string;
  state: ZIMRoomState;
  event: ZIMRoomEvent;
  /** "" or a JSON object as a string. */
  extendedData: string;
  /** Ours, with (Connected, Success): the position from here on. */
  epoch?: number;
  seq?: number;
}

export interface ZIMEventOfRoomMemberChangedResult {
  roomID: string;
  memberList: ZIMUserInfo[];
  /** Ours. How many members there are then, you included. */
  memberCount?: number;
  /** Ours. The number of the event; what a client hears on coming back may have none. */
  seq?: number;
}

export interface ZIMEventOfRoomAttributesUpdatedResult {
  roomID: string;
  infos: ZIMRoomAttributesUpdateInfo[];
  /** Ours. Who did it; the userID is "" if that is nobody, or not known. */
  operatedInfo: ZIMRoomOperatedInfo;
  /** Ours. */
  seq?: number;
}

export interface ZIMEventOfRoomMembersAttributesUpdatedResult {
  roomID: string;
  infos: ZIMRoomMemberAttributesUpdateInfo[];
  operatedInfo: ZIMRoomOperatedInfo;
  /** Ours. */
  seq?: number;
}

export interface ZIMEventOfConversationMessageReceivedResult {
  messageList: ZIMMessage[];
  fromConversationID: string;
  info: ZIMMessageReceivedInfo;
  /** Ours. Commands and barrages have none. */
  seq?: number;
}

export interface ZIMEventOfReceiveConversationMessageResult {
  messageList: ZIMMessage[];
  fromConversationID: string;
}

/** Ours. Events of a room were missed for good: those after fromSeq, up to toSeq. */
export interface EventOfRoomHistoryLostResult {
  roomID: string;
  fromSeq: number;
  toSeq: number;
}

/** Ours. How a client hears of the entries and departures of a room from now on. */
export interface EventOfRoomModeChangedResult {
  roomID: string;
  /** full: of all. sampled: of some, with an exact count; keep no list of the members then. */
  mode: 'full' | 'sampled';
}
