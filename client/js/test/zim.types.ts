// Holds the SDK to the type declarations of zego-zim-web. There is nothing to run: the
// compiler fails where an application written for ZIM would not compile any more.
//
// What is here beyond ZIM, all of it optional to an application:
//   - ZIMAppConfig: server, WebSocket, deviceID, loginTimeout, requestTimeout, reenterAfterEviction
//   - ZIM: sendRoomMessage, queryRoomHistory
//   - configs may leave fields out: of logins, logouts, new rooms, messages, attributes and batches
//   - messages may be literals
//   - results of entries: created, memberCount; of entries and queries: epoch, seq
//   - the result of a batch: errorKeys
//   - events: roomHistoryLost, roomModeChanged; epoch, seq, memberCount; operatedInfo of room attributes
//   - errors: code may be negative (JSON-RPC), so it is a number

import type * as Theirs from 'zego-zim-web';
import type * as Ours from '../src/index.js';

type Extends<A, B> = [A] extends [B] ? true : false;
type Both<A, B> = Extends<A, B> extends true ? Extends<B, A> : false;
/** All is true if all of a record is, else it names what is not. */
type All<R> = { [K in keyof R]: R[K] extends true ? never : K }[keyof R] extends infer Bad ? ([Bad] extends [never] ? true : Bad) : never;
function holds<_ extends true>(): void {}

// Every member of theirs that is about rooms, login and connection is there.
type RoomMember<K> = K extends `${string}Room${string}` | 'login' | 'logout' | 'renewToken' | 'sendMessage' | 'on' | 'off' | 'destroy' | 'setLogConfig' ? K : never;
type Methods = RoomMember<keyof Theirs.ZIM>;
holds<Extends<Methods, keyof Ours.ZIM>>();
holds<Extends<'create' | 'getInstance' | 'getVersion', keyof typeof Ours.ZIM>>();

type RoomEvent<K> = K extends `${string}oom${string}` | 'connectionStateChanged' | 'tokenWillExpire' | 'error' ? K : never;
type EventNames = RoomEvent<keyof Theirs.ZIMEventHandler>;
holds<Extends<EventNames, keyof Ours.ZIMEventHandler>>();

type Method<Z, K extends keyof Z> = Z[K] extends (...args: infer A) => infer R ? { args: A; result: Awaited<R> } : never;
type Asked = Exclude<Methods, 'login' | 'on' | 'off'>;

// A call that their declarations take, ours take; and what it gives is what theirs gives.
holds<All<{ [K in Asked]: Extends<Method<Theirs.ZIM, K>['args'], Method<Ours.ZIM, K>['args']> }>>();
holds<All<{ [K in Asked]: Extends<Method<Ours.ZIM, K>['result'], Method<Theirs.ZIM, K>['result']> }>>();
// Whether it gives a promise is the same.
holds<All<{ [K in Asked]: Both<ReturnType<Ours.ZIM[K]> extends Promise<unknown> ? 1 : 0, ReturnType<Theirs.ZIM[K]> extends Promise<unknown> ? 1 : 0> }>>();

// Both forms of login, and both of create.
declare const ours: Ours.ZIM;
declare const userInfo: Theirs.ZIMUserInfo;
declare const loginConfig: Theirs.ZIMLoginConfig;
holds<Both<ReturnType<Ours.ZIM['login']>, Promise<void>>>();
void (() => [ours.login(userInfo, 'token'), ours.login('ana', loginConfig)]);
holds<Extends<number | Theirs.ZIMAppConfig, Parameters<typeof Ours.ZIM.create>[0]>>();
holds<Both<ReturnType<typeof Ours.ZIM.create>, Ours.ZIM | null>>();
holds<Both<ReturnType<typeof Ours.ZIM.getInstance>, Ours.ZIM | null>>();
holds<Both<ReturnType<typeof Ours.ZIM.getVersion>, string>>();

// What browsers have can be given as WebSocket.
holds<Extends<typeof WebSocket, Ours.WebSocketConstructor>>();

// A listener that takes what theirs gives, takes what ours gives.
type Data<H> = H extends (zim: never, data: infer D) => void ? D : never;
holds<All<{ [K in EventNames]: Extends<Data<Ours.ZIMEventHandler[K]>, Data<Theirs.ZIMEventHandler[K]>> }>>();

// Shapes that are the same.
interface Same {
  ZIMUserInfo: Both<Ours.ZIMUserInfo, Theirs.ZIMUserInfo>;
  ZIMErrorUserInfo: Both<Ours.ZIMErrorUserInfo, Theirs.ZIMErrorUserInfo>;
  ZIMLoginConfig: Both<Ours.ZIMLoginConfig, Theirs.ZIMLoginConfig>;
  ZIMLogoutConfig: Both<Ours.ZIMLogoutConfig, Theirs.ZIMLogoutConfig>;
  ZIMLogConfig: Both<Ours.ZIMLogConfig, Theirs.ZIMLogConfig>;
  ZIMTokenRenewedResult: Both<Ours.ZIMTokenRenewedResult, Theirs.ZIMTokenRenewedResult>;
  ZIMError: Both<Ours.ZIMError, Theirs.ZIMError>;
  ZIMRoomInfo: Both<Ours.ZIMRoomInfo, Theirs.ZIMRoomInfo>;
  ZIMRoomFullInfo: Both<Ours.ZIMRoomFullInfo, Theirs.ZIMRoomFullInfo>;
  ZIMRoomAdvancedConfig: Both<Ours.ZIMRoomAdvancedConfig, Theirs.ZIMRoomAdvancedConfig>;
  ZIMRoomLeftResult: Both<Ours.ZIMRoomLeftResult, Theirs.ZIMRoomLeftResult>;
  ZIMRoomAllLeftResult: Both<Ours.ZIMRoomAllLeftResult, Theirs.ZIMRoomAllLeftResult>;
  ZIMRoomMemberInfo: Both<Ours.ZIMRoomMemberInfo, Theirs.ZIMRoomMemberInfo>;
  ZIMRoomMemberQueryConfig: Both<Ours.ZIMRoomMemberQueryConfig, Theirs.ZIMRoomMemberQueryConfig>;
  ZIMRoomAttributesSetConfig: Both<Ours.ZIMRoomAttributesSetConfig, Theirs.ZIMRoomAttributesSetConfig>;
  ZIMRoomAttributesBatchOperationConfig: Both<Ours.ZIMRoomAttributesBatchOperationConfig, Theirs.ZIMRoomAttributesBatchOperationConfig>;
  ZIMRoomAttributesDeleteConfig: Both<Ours.ZIMRoomAttributesDeleteConfig, Theirs.ZIMRoomAttributesDeleteConfig>;
  ZIMRoomAttributesUpdateInfo: Both<Ours.ZIMRoomAttributesUpdateInfo, Theirs.ZIMRoomAttributesUpdateInfo>;
  ZIMRoomAttributesOperatedResult: Both<Ours.ZIMRoomAttributesOperatedResult, Theirs.ZIMRoomAttributesOperatedResult>;
  ZIMRoomMemberAttributesInfo: Both<Ours.ZIMRoomMemberAttributesInfo, Theirs.ZIMRoomMemberAttributesInfo>;
  ZIMRoomMemberAttributesOperatedInfo: Both<Ours.ZIMRoomMemberAttributesOperatedInfo, Theirs.ZIMRoomMemberAttributesOperatedInfo>;
  ZIMRoomMemberAttributesUpdateInfo: Both<Ours.ZIMRoomMemberAttributesUpdateInfo, Theirs.ZIMRoomMemberAttributesUpdateInfo>;
  ZIMRoomMemberAttributesSetConfig: Both<Ours.ZIMRoomMemberAttributesSetConfig, Theirs.ZIMRoomMemberAttributesSetConfig>;
  ZIMRoomMemberAttributesQueryConfig: Both<Ours.ZIMRoomMemberAttributesQueryConfig, Theirs.ZIMRoomMemberAttributesQueryConfig>;
  ZIMRoomOperatedInfo: Both<Ours.ZIMRoomOperatedInfo, Theirs.ZIMRoomOperatedInfo>;
  ZIMRoomMembersAttributesOperatedResult: Both<Ours.ZIMRoomMembersAttributesOperatedResult, Theirs.ZIMRoomMembersAttributesOperatedResult>;
  ZIMMessageSentResult: Both<Ours.ZIMMessageSentResult, Theirs.ZIMMessageSentResult>;
  ZIMMessageReceivedInfo: Both<Ours.ZIMMessageReceivedInfo, Theirs.ZIMMessageReceivedInfo>;
  ZIMMessage: Both<Ours.ZIMMessage, Theirs.ZIMMessage>;
  ZIMTextMessage: Both<Ours.ZIMTextMessage, Theirs.ZIMTextMessage>;
  ZIMCommandMessage: Both<Ours.ZIMCommandMessage, Theirs.ZIMCommandMessage>;
  ZIMBarrageMessage: Both<Ours.ZIMBarrageMessage, Theirs.ZIMBarrageMessage>;
  ZIMCustomMessage: Both<Ours.ZIMCustomMessage, Theirs.ZIMCustomMessage>;
  ZIMEventOfConnectionStateChangedResult: Both<Ours.ZIMEventOfConnectionStateChangedResult, Theirs.ZIMEventOfConnectionStateChangedResult>;
  ZIMEventOfTokenWillExpireResult: Both<Ours.ZIMEventOfTokenWillExpireResult, Theirs.ZIMEventOfTokenWillExpireResult>;
  ZIMEventOfRoomStateChangedResult: Both<Ours.ZIMEventOfRoomStateChangedResult, Theirs.ZIMEventOfRoomStateChangedResult>;
  ZIMEventOfRoomMemberChangedResult: Both<Ours.ZIMEventOfRoomMemberChangedResult, Theirs.ZIMEventOfRoomMemberChangedResult>;
  ZIMEventOfReceiveConversationMessageResult: Both<Ours.ZIMEventOfReceiveConversationMessageResult, Theirs.ZIMEventOfReceiveConversationMessageResult>;
}
holds<All<Same>>();

// Shapes that have more: ours can be used where theirs is asked for.
interface More {
  ZIMAppConfig: Extends<Theirs.ZIMAppConfig, Ours.ZIMAppConfig>; // an application gives it
  ZIMMessageSendConfig: Extends<Theirs.ZIMMessageSendConfig, Ours.ZIMMessageSendConfig>; // likewise
  ZIMRoomCreatedResult: Extends<Ours.ZIMRoomCreatedResult, Theirs.ZIMRoomCreatedResult>;
  ZIMRoomJoinedResult: Extends<Ours.ZIMRoomJoinedResult, Theirs.ZIMRoomJoinedResult>;
  ZIMRoomEnteredResult: Extends<Ours.ZIMRoomEnteredResult, Theirs.ZIMRoomEnteredResult>;
  ZIMRoomSwitchedResult: Extends<Ours.ZIMRoomSwitchedResult, Theirs.ZIMRoomSwitchedResult>;
  ZIMRoomMemberQueriedResult: Extends<Ours.ZIMRoomMemberQueriedResult, Theirs.ZIMRoomMemberQueriedResult>;
  ZIMRoomMembersQueriedResult: Extends<Ours.ZIMRoomMembersQueriedResult, Theirs.ZIMRoomMembersQueriedResult>;
  ZIMRoomOnlineMemberCountQueriedResult: Extends<Ours.ZIMRoomOnlineMemberCountQueriedResult, Theirs.ZIMRoomOnlineMemberCountQueriedResult>;
  ZIMRoomAttributesBatchOperatedResult: Extends<Ours.ZIMRoomAttributesBatchOperatedResult, Theirs.ZIMRoomAttributesBatchOperatedResult>;
  ZIMRoomAttributesQueriedResult: Extends<Ours.ZIMRoomAttributesQueriedResult, Theirs.ZIMRoomAttributesQueriedResult>;
  ZIMRoomMembersAttributesQueriedResult: Extends<Ours.ZIMRoomMembersAttributesQueriedResult, Theirs.ZIMRoomMembersAttributesQueriedResult>;
  ZIMRoomMemberAttributesListQueriedResult: Extends<Ours.ZIMRoomMemberAttributesListQueriedResult, Theirs.ZIMRoomMemberAttributesListQueriedResult>;
  ZIMEventOfRoomAttributesUpdatedResult: Extends<Ours.ZIMEventOfRoomAttributesUpdatedResult, Theirs.ZIMEventOfRoomAttributesUpdatedResult>;
  ZIMEventOfRoomMembersAttributesUpdatedResult: Extends<Ours.ZIMEventOfRoomMembersAttributesUpdatedResult, Theirs.ZIMEventOfRoomMembersAttributesUpdatedResult>;
  ZIMEventOfConversationMessageReceivedResult: Extends<Ours.ZIMEventOfConversationMessageReceivedResult, Theirs.ZIMEventOfConversationMessageReceivedResult>;
}
holds<All<More>>();

// What an application may name, theirs or ours: a literal that has more than a shape does not
// compile, optional or not. What is theirs and not ours is listed here, and in
// docs/coming-from-zim.md: nothing.
type Named<K extends keyof Shapes> = Extends<keyof Shapes[K][0], keyof Shapes[K][1]>;
interface Shapes {
  ZIMAppConfig: [Theirs.ZIMAppConfig, Ours.ZIMAppConfig];
  ZIMLogConfig: [Theirs.ZIMLogConfig, Ours.ZIMLogConfig];
  ZIMUserInfo: [Theirs.ZIMUserInfo, Ours.ZIMUserInfo];
  ZIMLoginConfig: [Theirs.ZIMLoginConfig, Ours.ZIMLoginConfig];
  ZIMLogoutConfig: [Theirs.ZIMLogoutConfig, Ours.ZIMLogoutConfig];
  ZIMRoomInfo: [Theirs.ZIMRoomInfo, Ours.ZIMRoomInfo];
  ZIMRoomAdvancedConfig: [Theirs.ZIMRoomAdvancedConfig, Ours.ZIMRoomAdvancedConfig];
  ZIMRoomMemberQueryConfig: [Theirs.ZIMRoomMemberQueryConfig, Ours.ZIMRoomMemberQueryConfig];
  ZIMMessage: [Theirs.ZIMMessage, Ours.ZIMMessage];
  ZIMTextMessage: [Theirs.ZIMTextMessage, Ours.ZIMTextMessage];
  ZIMCommandMessage: [Theirs.ZIMCommandMessage, Ours.ZIMCommandMessage];
  ZIMBarrageMessage: [Theirs.ZIMBarrageMessage, Ours.ZIMBarrageMessage];
  ZIMCustomMessage: [Theirs.ZIMCustomMessage, Ours.ZIMCustomMessage];
  ZIMMessageSendConfig: [Theirs.ZIMMessageSendConfig, Ours.ZIMMessageSendConfig];
  ZIMMessageSendNotification: [Theirs.ZIMMessageSendNotification, Ours.ZIMMessageSendNotification];
  ZIMMessageReceivedInfo: [Theirs.ZIMMessageReceivedInfo, Ours.ZIMMessageReceivedInfo];
  ZIMRoomAttributesSetConfig: [Theirs.ZIMRoomAttributesSetConfig, Ours.ZIMRoomAttributesSetConfig];
  ZIMRoomAttributesBatchOperationConfig: [Theirs.ZIMRoomAttributesBatchOperationConfig, Ours.ZIMRoomAttributesBatchOperationConfig];
  ZIMRoomAttributesDeleteConfig: [Theirs.ZIMRoomAttributesDeleteConfig, Ours.ZIMRoomAttributesDeleteConfig];
  ZIMRoomMemberAttributesSetConfig: [Theirs.ZIMRoomMemberAttributesSetConfig, Ours.ZIMRoomMemberAttributesSetConfig];
  ZIMRoomMemberAttributesQueryConfig: [Theirs.ZIMRoomMemberAttributesQueryConfig, Ours.ZIMRoomMemberAttributesQueryConfig];
  ZIMRoomEnteredResult: [Theirs.ZIMRoomEnteredResult, Ours.ZIMRoomEnteredResult];
  ZIMEventOfRoomAttributesUpdatedResult: [Theirs.ZIMEventOfRoomAttributesUpdatedResult, Ours.ZIMEventOfRoomAttributesUpdatedResult];
  ZIMEventOfConversationMessageReceivedResult: [Theirs.ZIMEventOfConversationMessageReceivedResult, Ours.ZIMEventOfConversationMessageReceivedResult];
}
holds<All<{ [K in keyof Shapes]: Named<K> }>>();

// Literals that leave fields out, and messages as literals, compile.
void (() => [
  ours.login('ana', {}),
  ours.login('ana', { token: 'token' }),
  ours.logout({}),
  ours.createRoom({ roomID: 'r', roomName: '' }, { roomDestroyDelayTime: 60 }),
  ours.enterRoom({ roomID: 'r', roomName: '' }, {}),
  ours.switchRoom('q', { roomID: 'r', roomName: '' }, true, { roomAttributes: {} }),
  ours.sendMessage({ type: 1, message: 'hello', localExtendedData: 'mine' }, 'r', 1, {}),
  ours.sendMessage({ type: 2, message: new Uint8Array() }, 'r', 1, { priority: 1, hasReceipt: false }),
  ours.sendRoomMessage({ type: 20, message: 'hello' }, 'r'),
  ours.sendRoomMessage({ type: 200, message: 'hello', subType: 7 }, 'r', {}, { onMessageAttached: (m) => m.localMessageID }),
]);

// Enums have the same names and numbers, both ways.
holds<
  All<{
    ZIMConnectionState: Both<Ours.ZIMConnectionState, Theirs.ZIMConnectionState>;
    ZIMConnectionEvent: Both<Ours.ZIMConnectionEvent, Theirs.ZIMConnectionEvent>;
    ZIMRoomState: Both<Ours.ZIMRoomState, Theirs.ZIMRoomState>;
    ZIMRoomEvent: Both<Ours.ZIMRoomEvent, Theirs.ZIMRoomEvent>;
    ZIMRoomAttributesUpdateAction: Both<Ours.ZIMRoomAttributesUpdateAction, Theirs.ZIMRoomAttributesUpdateAction>;
    ZIMRoomMemberAttributesUpdateAction: Both<Ours.ZIMRoomMemberAttributesUpdateAction, Theirs.ZIMRoomMemberAttributesUpdateAction>;
    ZIMConversationType: Both<Ours.ZIMConversationType, Theirs.ZIMConversationType>;
    ZIMMessageType: Both<Ours.ZIMMessageType, Theirs.ZIMMessageType>;
    ZIMMessagePriority: Both<Ours.ZIMMessagePriority, Theirs.ZIMMessagePriority>;
    ZIMMessageDirection: Both<Ours.ZIMMessageDirection, Theirs.ZIMMessageDirection>;
    ZIMMessageSentStatus: Both<Ours.ZIMMessageSentStatus, Theirs.ZIMMessageSentStatus>;
    ZIMErrorCode: Extends<Ours.ZIMErrorCode, Theirs.ZIMErrorCode>; // ours has those there is a use for
  }>
>();
