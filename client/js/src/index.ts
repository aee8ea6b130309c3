// The client of Roomgate for browsers and Node, with the API of ZIM's Web SDK for rooms.

export {
  ZIMConnectionState,
  ZIMConnectionEvent,
  ZIMRoomState,
  ZIMRoomEvent,
  ZIMRoomAttributesUpdateAction,
  ZIMRoomMemberAttributesUpdateAction,
  ZIMConversationType,
  ZIMMessageType,
  ZIMMessagePriority,
  ZIMMessageDirection,
  ZIMMessageSentStatus,
} from './enums.js';
export { type ZIMError, ZIMErrorCode } from './errors.js';
export type * from './types.js';
export { ZIM, type ZIMEventHandler } from './zim.js';
