# SPDX-License-Identifier: Apache-2.0
MetadataConfigs = dict
