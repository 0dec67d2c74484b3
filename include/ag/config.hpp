// The library's names live in ag::api, which is inline: a program writes ag::Tensor.
#pragma once
#ifndef AG_API_NAMESPACE
#define AG_API_NAMESPACE inline namespace api
#endif
