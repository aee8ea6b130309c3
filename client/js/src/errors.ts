/** ZIMErrorCode has ZIM's codes of what there is here; see docs/protocol.md for what each means. */
export enum ZIMErrorCode {
  Success = 0,
  Failed = 1,
  CommonModuleParamsInvalid = 6000001,
  CommonModuleNotInit = 6000002,
  CommonModuleTriggerSDKFrequencyLimit = 6000004,
  CommonModuleTriggerServerFrequencyLimit = 6000005,
  CommonModuleIMServerError = 6000007,
  CommonModuleUnsupportedRequest = 6000013,
  NetworkModuleTokenInvalid = 6000103,
  NetworkModuleNetworkError = 6000104,
  NetworkModuleRequestTimeout = 6000105,
  NetworkModuleTokenExpired = 6000106,
  NetworkModuleTokenVersionError = 6000107,
  NetworkModuleTokenTimeIsTooShort = 6000108,
  NetworkModuleRspProtoParseError = 6000109,
  NetworkModuleUserHasAlreadyLogged = 6000111,
  NetworkModuleUserIsNotLogged = 6000121,
  NetworkModuleUserHasAlreadyLoggedOut = 6000122,
  MessageModuleTargetDoesNotExist = 6000204,
  RoomModuleJoinRoomError = 6000304,
  RoomModuleLeaveRoomError = 6000306,
  RoomModuleUserIsNotInTheRoom = 6000321,
  RoomModuleTheRoomDoesNotExist = 6000322,
  RoomModuleTheRoomAlreadyExists = 6000323,
  RoomModuleTheNumberOfExistingRoomsHasReachedLimit = 6000324,
  RoomModuleTheNumberOfJoinedRoomsHasReachedLimit = 6000325,
  RoomModuleTheRoomIsConnecting = 6000326,
  RoomModuleRoomMemberIsBlocked = 6000327,
  RoomModuleRoomAttributesOperationFailedCompletely = 6000331,
  RoomModuleTheNumberOfRoomAttributesExceedsLimit = 6000334,
  RoomModuleTheLengthOfRoomAttributeKeyExceedsLimit = 6000335,
  RoomModuleTheLengthOfRoomAttributeValueExceedsLimit = 6000336,
  RoomModuleTheTotalLengthOfRoomAttributesValueExceedsLimit = 6000337,
  RoomModuleRoomMemberAttributesCommonError = 6000350,
  RoomModuleTheTotalLengthOfRoomMemberAttributesExceedsLimit = 6000351,
  RoomModuleTheLengthOfRoomMemberAttributesKeyExceedsLimit = 6000352,
  RoomModuleTheLengthOfRoomMemberAttributesValueExceedsLimit = 6000353,
  RoomModuleTheMemberNumberOfRoomMemberAttributesExceedsLimit = 6000357,
}

/** ZIMError is what a promise of this SDK is rejected with. */
export interface ZIMError {
  /** One of {@link ZIMErrorCode}, or a negative one of JSON-RPC 2.0. */
  code: number;
  /** A sentence for a person, which may change. It never has a token in it. */
  message: string;
}

/**
 * Failure is a ZIMError, {code, message} to whoever copies or prints it, and an Error as well,
 * for its stack.
 */
export class Failure extends Error implements ZIMError {
  static {
    this.prototype.name = 'ZIMError';
  }

  readonly #retryable: boolean;

  constructor(
    readonly code: number,
    message: string,
    retryable = false,
  ) {
    super(message);
    this.#retryable = retryable;
    Object.defineProperty(this, 'message', { enumerable: true });
  }

  /** The same request, under the same requestKey, may succeed a little later. */
  get retryable(): boolean {
    return this.#retryable;
  }
}

/** quoted shortens what a message names, so that a message stays a sentence. */
export function quoted(value: unknown): string {
  let text: string;
  try {
    text = JSON.stringify(value) ?? String(value);
  } catch {
    text = String(value);
  }
  return text.length > 80 ? `${text.slice(0, 80)}…` : text;
}
